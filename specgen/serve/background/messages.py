"""What a command asks of a session, as plain data: it is answered here, or in the process that keeps the pair."""

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
from specgen.core.events import Event, Failed, Finished, LoadedModel, Notice, Progress, Started, Step
from specgen.core.tokens import Tokens
from specgen.core.types import Constraint, EngineOptions, Message, SamplingChoice
from specgen.engine.text.thinking import Tags
from specgen.serve.background.fingerprint import Fingerprint

if TYPE_CHECKING:
    from specgen.session.session import Session


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A prompt, with all that Session.generate takes. With `earlier` it is the next turn of that conversation.

    With `context` it is what Session.run takes, and then `thinking` and `speculating` count. `code_alone`: the answer
    may end behind its first code block.
    """

    prompt: str
    earlier: tuple[Message, ...] | None = None
    context: tuple[int, ...] | None = None
    thinking: Tags | None = None
    speculating: bool = True
    system: str | None = None
    raw: bool = False
    sampling: SamplingChoice = field(default_factory=SamplingChoice)
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    think: bool | None = None
    constraint: Constraint | None = None
    code_alone: bool = False

    def answer(self, session: "Session") -> Iterator[Event]:
        """The stream of the answer, from `session`; closing it early is safe."""
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
            events = self._turn(session, self.earlier)
        return _ending_behind_code(events, session) if self.code_alone else events

    def _run(self, session: "Session", context: Tokens) -> Iterator[Event]:
        yield from session.open()
        session.speculating = self.speculating
        try:
            yield from session.run(
                context, self.sampling, self.max_new_tokens, self.stop, self.thinking, self.constraint
            )
        finally:
            session.speculating = True  # the next question may be somebody else's

    def _turn(self, session: "Session", earlier: tuple[Message, ...]) -> Iterator[Event]:
        from specgen.session.conversation import Conversation  # noqa: PLC0415 - torch, which whoever only asks does not need

        conversation = Conversation(
            session,
            system=self.system,
            sampling=self.sampling,
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
            think=self.think,
            constraint=self.constraint,
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
    """A question on its way to the process that keeps the pair. `asked` is None where the pair is only to be loaded.

    `id` names it for whoever wants it stopped, `caller` is whose turn it is. `told`: the caller has read what there was
    to say when the pair was opened. `instead_of` is the draft that the caller has had with this target until now, where
    it has changed. `keep_alive_s` is how long the process is to stay when it has nothing to do.
    """

    id: str
    caller: str
    fingerprint: Fingerprint
    target: str
    draft: str
    options: EngineOptions
    asked: GenerationRequest | None
    told: bool
    instead_of: str | None
    keep_alive_s: float


def _ending_behind_code(events: Iterator[Event], session: "Session") -> Iterator[Event]:
    from specgen.render.code import FirstBlock  # noqa: PLC0415 - few ask for it

    block = FirstBlock(_Nobody(), lambda: session.stop("stop"))
    for event in events:
        block.show(event)
        yield event


class _Nobody:
    """Who watches for the end of the code, and shows nothing."""

    def show(self, event: Event) -> None: ...

    def close(self) -> None: ...


KIND = "type"
# Lines that are no events: everything has been said; whoever speaks cannot go on.
END = "End"
GONE = "Gone"
_EVENTS = {kind.__name__: kind for kind in (Progress, Notice, Started, Step, Finished, Failed)}
_ERRORS = {name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, SpecgenError)}

Read = Callable[[Any], Any]


def object_line(what: Any) -> bytes:
    """An event, or another dataclass, as one line of JSON, its newline included."""
    return line({KIND: type(what).__name__, **plain(what)})


def read_event(data: Any) -> Event:
    """The event that parsed JSON of such a line has. Raises KeyError, TypeError or ValueError for anything else."""
    event: Event = read_line(_EVENTS[data[KIND]], data)
    return event


def read_line(kind: Any, data: Any) -> Any:
    """What parsed JSON of such a line has, of a type that is known. Raises as read_event."""
    return read(kind, {name: value for name, value in data.items() if name != KIND})


def line(data: Any) -> bytes:
    """Plain data as one line of JSON; also a text that has no UTF-8 arrives as it is."""
    return json.dumps(data, separators=(",", ":")).encode("ascii") + b"\n"


def plain(value: Any) -> Any:
    """`value` as what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field: plain(getattr(value, field)) for field in _fields(type(value))}
    if isinstance(value, SpecgenError):
        return {"error": type(value).__name__, "message": value.message, "hint": value.hint}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, collections.abc.Mapping):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, tuple) else value


def read(kind: Any, data: Any) -> Any:
    """What `plain` made of a value of the type `kind`. Raises KeyError, TypeError or ValueError for anything else."""
    return _reader(kind)(data)


@functools.cache
def _fields(kind: type) -> dict[str, Any]:
    """The type of every field."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@functools.cache
def _reader(kind: Any) -> Read:
    """What reads a type. Types are written as annotations, of which these are all that occur."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (some,) = (_reader(each) for each in arguments if each is not types.NoneType)
        return lambda data: None if data is None else some(data)
    if origin is Literal:
        return functools.partial(_one_of, arguments)
    if origin is tuple:  # of one type, and any length
        each = _reader(arguments[0])
        return lambda data: tuple(map(each, data))
    if origin is collections.abc.Mapping:
        key, value = map(_reader, arguments)
        return lambda data: {key(name): value(data[name]) for name in data}
    if not isinstance(kind, type):
        raise TypeError(f"no JSON is read as {kind}")
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
        raise TypeError(f"no JSON is read as {kind}")
    return functools.partial(_exactly, (int, float) if kind is float else (kind,))


def _one_of(values: tuple[Any, ...], data: Any) -> Any:
    if data not in values:
        raise ValueError(f"{data!r} is none of {values}")
    return data


def _exactly(kinds: tuple[type, ...], data: Any) -> Any:
    if type(data) not in kinds:
        raise TypeError(f"{data!r} is no {kinds[0].__name__}")
    return data
