"""What a command asks of a session, as plain data: it is answered here, or in the process that keeps the pair."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from specgen.core.events import Event, LoadedModel
from specgen.core.tokens import Tokens
from specgen.core.types import Constraint, EngineOptions, Message, SamplingChoice
from specgen.engine.text.thinking import Tags
from specgen.serve.identity import Identity

if TYPE_CHECKING:
    from specgen.session.session import Session


@dataclass(frozen=True, slots=True)
class Asked:
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
class Opened:
    """What loading.Pair has, of a pair that was loaded elsewhere; `path` is where its tokenizer is read from."""

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
    identity: Identity
    target: str
    draft: str
    options: EngineOptions
    asked: Asked | None
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
