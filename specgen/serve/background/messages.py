"""Messages between a command and the background process, and their JSON lines."""

import collections.abc
import dataclasses
import functools
import inspect
import json
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from specgen.core import errors
from specgen.core.errors import SpecgenError
from specgen.core.events import Event, Failed, Finished, LoadedModel, Notice, Progress, Started, Step, Suspended
from specgen.core.tokens import Tokens
from specgen.core.types import Constraint, EngineOptions, Message, SamplingChoice
from specgen.engine.text.thinking import Tags
from specgen.serve.background.fingerprint import Fingerprint

if TYPE_CHECKING:
    from specgen.session.session import Session


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """The arguments of Session.generate. With `earlier`, the prompt is the next turn of that conversation.

    With `context`, the arguments of Session.run: then `thinking` and `speculating` count too. With `uses_history`
    lookup may draft from logged answers. `code_only` ends the answer after its first code block.
    """

    prompt: str
    earlier: tuple[Message, ...] | None = None
    context: tuple[int, ...] | None = None
    thinking: Tags | None = None
    speculating: bool = True
    uses_history: bool = False
    system: str | None = None
    raw: bool = False
    sampling: SamplingChoice = field(default_factory=SamplingChoice)
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    think: bool | None = None
    constraint: Constraint | None = None
    code_only: bool = False

    def answer(self, session: "Session") -> Iterator[Event]:
        """Stream the answer from `session`. The stream may be closed early."""
        session.uses_history = self.uses_history
        try:
            yield from self._answer(session)
        finally:
            session.uses_history = False  # the next request may come from another caller

    def _answer(self, session: "Session") -> Iterator[Event]:
        if self.context is not None:
            return self._run(session, Tokens(self.context))
        if self.earlier is None:
            events = session.generate(
                self.prompt,
                system=self.system,
                raw=self.raw,
                sampling=self.sampling,
                max_new_tokens=self.max_new_tokens,
                stop=self.stop,
                think=self.think,
                constraint=self.constraint,
            )
        else:
            events = self._next_turn(session, self.earlier)
        return _stop_after_code(events, session) if self.code_only else events

    def _run(self, session: "Session", context: Tokens) -> Iterator[Event]:
        yield from session.open()
        session.speculating = self.speculating
        try:
            yield from session.run(
                context, self.sampling, self.max_new_tokens, self.stop, self.thinking, self.constraint
            )
        finally:
            session.speculating = True  # the next request may come from another caller

    def _next_turn(self, session: "Session", earlier: tuple[Message, ...]) -> Iterator[Event]:
        from specgen.session.conversation import Conversation  # noqa: PLC0415 - a client must not import torch

        conversation = Conversation(
            session,
            system=self.system,
            sampling=self.sampling,
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
            think=self.think,
            constraint=self.constraint,
            raw=self.raw,
        )
        conversation.restore(earlier)
        return conversation.say(self.prompt)


@dataclass(frozen=True, slots=True)
class OpenedPair:
    """The facts about a loaded pair that a client needs. `path` is the checkpoint that has its tokenizer."""

    target: LoadedModel
    draft: LoadedModel | None
    drafter: str
    context_length: int
    path: str


@dataclass(frozen=True, slots=True)
class Call:
    """A request to the background process. A `request` of None only loads the pair.

    `id` names the call for an interrupt. `caller` is the queue's key. `notices_shown`: the user has read the notices of
    the opening. `former_draft` is the caller's draft before a change. The process exits `keep_alive_s` seconds after
    its last request.
    """

    id: str
    caller: str
    fingerprint: Fingerprint
    target: str
    draft: str
    options: EngineOptions
    request: GenerationRequest | None
    notices_shown: bool
    former_draft: str | None
    keep_alive_s: float


def _stop_after_code(events: Iterator[Event], session: "Session") -> Iterator[Event]:
    from specgen.render.code import FirstBlock  # noqa: PLC0415 - few requests need it

    block = FirstBlock(_NullRenderer(), lambda: session.stop("stop"))
    for event in events:
        block.show(event)
        yield event


class _NullRenderer:
    def show(self, event: Event) -> None: ...

    def close(self) -> None: ...


KIND = "type"
# Lines that are not events: the end of an answer, and an answer that the process cannot finish.
END = "End"
GONE = "Gone"
_EVENTS = {kind.__name__: kind for kind in (Progress, Notice, Started, Step, Suspended, Finished, Failed)}
_ERRORS = {name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, SpecgenError)}

Read = Callable[[Any], Any]


def object_line(value: Any) -> bytes:
    """An event or another dataclass as one line of JSON, with its newline."""
    return line({KIND: type(value).__name__, **plain(value)})


def read_event(data: Any) -> Event:
    """The event of a parsed line. Raises KeyError, TypeError or ValueError for another line."""
    event: Event = read_line(_EVENTS[data[KIND]], data)
    return event


def read_line(kind: Any, data: Any) -> Any:
    """The object of type `kind` of a parsed line. Raises as read_event."""
    return read(kind, {name: value for name, value in data.items() if name != KIND})


def line(data: Any) -> bytes:
    """Plain data as one line of ASCII JSON, so that lone surrogates survive."""
    return json.dumps(data, separators=(",", ":")).encode("ascii") + b"\n"


def plain(value: Any) -> Any:
    """`value` as JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field: plain(getattr(value, field)) for field in _fields(type(value))}
    if isinstance(value, SpecgenError):
        # The other process knows the classes of core/errors.py, so a narrower class is sent as its base.
        known = next(kind.__name__ for kind in type(value).__mro__ if _ERRORS.get(kind.__name__) is kind)
        return {"error": known, "message": value.message, "hint": value.hint}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, collections.abc.Mapping):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, tuple) else value


def read(kind: Any, data: Any) -> Any:
    """The inverse of `plain` for a value of type `kind`. Raises as read_event."""
    return _reader(kind)(data)


@functools.cache
def _fields(kind: type) -> dict[str, Any]:
    """The type of every field of a dataclass."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@functools.cache
def _reader(kind: Any) -> Read:
    """The function that reads values of `kind`, for all annotations that messages use."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (some,) = (_reader(each) for each in arguments if each is not types.NoneType)
        return lambda data: None if data is None else some(data)
    if origin is Literal:
        return functools.partial(_one_of, arguments)
    if origin is tuple:  # homogeneous, of any length
        each = _reader(arguments[0])
        return lambda data: tuple(map(each, data))
    if origin is collections.abc.Mapping:
        key, value = map(_reader, arguments)
        return lambda data: {key(name): value(data[name]) for name in data}
    if not isinstance(kind, type):
        raise TypeError(f"JSON cannot be read as {kind}")
    return _class_reader(kind)


def _class_reader(kind: type) -> Read:
    if dataclasses.is_dataclass(kind):
        readers = {name: _reader(each) for name, each in _fields(kind).items()}
        return lambda data: kind(**{name: readers[name](data[name]) for name in data})
    if issubclass(kind, SpecgenError):
        return lambda data: _ERRORS.get(data["error"], SpecgenError)(data["message"], hint=data["hint"])
    if issubclass(kind, Enum):
        return kind
    if issubclass(kind, tuple):  # a NamedTuple
        named = [_reader(each) for each in get_type_hints(kind).values()]
        return lambda data: kind(*(reader(each) for reader, each in zip(named, data, strict=True)))
    if kind not in (str, int, float, bool):
        raise TypeError(f"JSON cannot be read as {kind}")
    return functools.partial(_exactly, (int, float) if kind is float else (kind,))


def _one_of(values: tuple[Any, ...], data: Any) -> Any:
    if data not in values:
        raise ValueError(f"{data!r} is not one of {values}")
    return data


def _exactly(kinds: tuple[type, ...], data: Any) -> Any:
    if type(data) not in kinds:
        raise TypeError(f"{data!r} is not of type {kinds[0].__name__}")
    return data
