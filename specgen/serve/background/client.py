"""A session whose pair stays loaded, in a process of this user that other commands share."""

import functools
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from specgen.core.errors import UsageError
from specgen.core.events import Event, Failed, Finished, Notice, Progress, Reason, Started
from specgen.core.types import AUTO, LOOKUP, NONE, Constraint, EngineOptions, Message, ModelRef, SamplingChoice
from specgen.serve.background.connection import ConnectionFailed
from specgen.serve.background.fingerprint import Fingerprint
from specgen.serve.background.launcher import Launcher, Unavailable
from specgen.serve.background.messages import (
    END,
    GONE,
    KIND,
    Call,
    GenerationRequest,
    OpenedPair,
    line,
    plain,
    read_event,
    read_line,
)
from specgen.serve.background.process import can_launch
from specgen.serve.background.replay import ShownAnswer

if TYPE_CHECKING:
    from specgen.checkpoint.tokenizer import Tokenizer


class BackgroundPair:
    """What is known of it here, named as in loading.Pair; its tokenizer is read when it is asked for."""

    def __init__(self, opened: OpenedPair, options: EngineOptions) -> None:
        self.loaded_target = opened.target
        self.loaded_draft = opened.draft
        self.drafter_name = opened.drafter
        self.context_length = opened.context_length
        self._path = Path(opened.path)
        self._options = options

    @functools.cached_property
    def tokenizer(self) -> "Tokenizer":
        from specgen.checkpoint.checkpoint import Checkpoint  # noqa: PLC0415 - a chat alone needs it
        from specgen.session.prompt import read_tokenizer  # noqa: PLC0415

        return read_tokenizer(Checkpoint(ModelRef.parse(self.loaded_target.id), self._path), self._options)


class ModelNames:
    """The names of the models as another process finds them, which stands in another folder."""

    def __init__(self, target: str, draft: str) -> None:
        self._given: list[tuple[str, str]] = []
        self.can_be_sent = True
        self.target = self._absolute(target)
        self.draft = draft if draft in (AUTO, LOOKUP, NONE) else self._absolute(draft)

    def as_given(self, data: dict[str, Any]) -> dict[str, Any]:
        """What a line of an event says, with the names that the user gave."""
        if not self._given:
            return data
        kind = data[KIND]
        if kind in (Started.__name__, OpenedPair.__name__):
            models = {role: data[role] for role in ("target", "draft") if data[role]}
            return data | {role: model | {"id": self._in_words(model["id"])} for role, model in models.items()}
        if kind in (Notice.__name__, Progress.__name__):
            return {name: self._in_words(value) for name, value in data.items()}
        if kind == Failed.__name__:
            return data | {"error": {name: self._in_words(value) for name, value in data["error"].items()}}
        return data

    def _absolute(self, name: str) -> str:
        if os.path.isabs(name) or name.startswith("~") or not os.path.lexists(name):  # noqa: PTH117 - as below
            return name
        from specgen.config.pairs import find_pair  # noqa: PLC0415 - most names are none of files

        if find_pair(name) is not None:
            return name
        # With these a relative name means something else than the same file's absolute one.
        self.can_be_sent = self.can_be_sent and not set("@:") & set(name)
        absolute = os.path.join(os.getcwd(), name)  # noqa: PTH109, PTH118 - as it is given, dots and all
        self._given += [(absolute, name), (os.path.normpath(absolute), os.path.normpath(name))]
        return absolute

    def _in_words(self, text: Any) -> Any:
        for absolute, name in self._given:
            text = text.replace(absolute, name) if isinstance(text, str) else text
        return text


if TYPE_CHECKING:
    from specgen.core.tokens import Tokens
    from specgen.engine.text.thinking import Tags
    from specgen.session.interface import PairInfo
    from specgen.session.session import Session


class BackgroundSession:
    """What Session is to the commands: the same events, from a process that has the pair loaded.

    It is started where it is not there, and stays for `keep_alive_s` after the last question; 0 does without it. So do
    calls that it must not answer (another environment, another specgen, code of a model), and those that it cannot:
    then the pair is loaded here. An answer that breaks off is gone on with.
    """

    def __init__(self, target: str, draft: str, options: EngineOptions, keep_alive_s: float) -> None:
        self._target = target
        self._draft = draft
        self._options = options
        self._keep_alive_s = keep_alive_s
        self._caller = secrets.token_hex(8)
        self._id = ""
        self._told = False
        self._instead_of: str | None = None
        self._launcher = Launcher()
        self._session: Session | None = None
        self._pair: BackgroundPair | None = None
        self.speculating = True
        self._names = ModelNames(target, draft)
        if self._can_use_background():
            self._fingerprint = Fingerprint.own()
        else:
            self._here()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """As Session.close; the other process keeps its pair."""
        self._launcher.disconnect()
        if self._session is not None:
            self._session.close()

    def stop(self, reason: Reason = "interrupted") -> None:
        """As Session.stop; may be called by a signal handler."""
        if self._session is not None:
            self._session.stop(reason)
        elif self._id:
            self._launcher.interrupt(self._id)

    def open(self) -> Iterator[Event]:
        """As Session.open. Raises SpecgenError."""
        try:
            if self._session is None:
                if self._pair is not None:
                    return
                for event in self._ask(None):
                    if isinstance(event, Failed):
                        raise event.error
                    if not isinstance(event, Finished):
                        yield event
                self._told = True
                return
        except Unavailable as alone:
            yield from _notice(alone)
        yield from self._here().open()

    @property
    def pair(self) -> "PairInfo":
        """As Session.pair."""
        if self._session is not None:
            return self._session.pair
        if self._pair is None:
            raise UsageError("the session is not open", hint="exhaust BackgroundSession.open() first")
        return self._pair

    def change_draft(self, draft: str) -> Iterator[Event]:
        """As Session.change_draft."""
        if self._session is not None:
            yield from self._session.change_draft(draft)
            return
        former = self._draft, self._names, self._pair
        self._instead_of = self._names.draft
        self._draft, self._names, self._pair, self._told = draft, ModelNames(self._target, draft), None, False
        try:
            if not self._names.can_be_sent:
                self._here()
            yield from self.open()
        except BaseException:
            if self._session is not None:
                self._session.close()
            (self._draft, self._names, self._pair), self._session = former, None
            raise
        finally:
            self._instead_of = None

    def run(
        self,
        context: "Tokens",
        sampling: SamplingChoice | None = None,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        thinking: "Tags | None" = None,
        constraint: Constraint | None = None,
    ) -> Iterator[Event]:
        """As Session.run. Raises SpecgenError."""
        if self._session is not None:
            self._session.speculating = self.speculating
            yield from self._session.run(context, sampling, max_new_tokens, stop, thinking, constraint)
            return
        asked = GenerationRequest(
            "",
            context=tuple(context),
            thinking=thinking,
            speculating=self.speculating,
            sampling=sampling or SamplingChoice(),
            max_new_tokens=max_new_tokens,
            stop=tuple(stop),
            constraint=constraint,
        )
        for event in self._answer(asked):
            if isinstance(event, Failed):
                raise event.error
            yield event

    def generate(self, prompt: str, **options: Any) -> Iterator[Event]:
        """As Session.generate; the `options` are the other fields of GenerationRequest."""
        return self._answer(_asked(prompt, None, options))

    def go_on(self, earlier: Sequence[Message], prompt: str, **options: Any) -> Iterator[Event]:
        """The next turn of a conversation, as Conversation.say."""
        return self._answer(_asked(prompt, tuple(earlier), options))

    def _answer(self, asked: GenerationRequest) -> Iterator[Event]:
        shown = ShownAnswer()
        if self._session is None:
            try:
                for event in self._ask(asked):
                    shown.add(event)
                    yield event
                return
            except Unavailable as alone:
                yield from _notice(alone)
        if shown.started is not None:
            asked = replace(asked, sampling=replace(asked.sampling, seed=shown.started.sampling.seed))
        yield from shown.rest(asked.answer(self._here()))

    def _here(self) -> "Session":
        """The session of this process, from now on."""
        if self._session is None:
            from specgen.session.session import Session  # noqa: PLC0415 - torch

            self._launcher.disconnect()
            self._session = Session(self._target, self._draft, self._options)
        return self._session

    def _can_use_background(self) -> bool:
        return (
            self._keep_alive_s > 0 and not self._options.trust_remote_code and self._names.can_be_sent and can_launch()
        )

    def _ask(self, asked: GenerationRequest | None) -> Iterator[Event]:
        """The events of an answer from the other process. Raises Unavailable, once or in the middle."""
        self._id = secrets.token_hex(8)
        call = Call(
            id=self._id,
            caller=self._caller,
            fingerprint=self._fingerprint,
            target=self._names.target,
            draft=self._names.draft,
            options=self._options,
            asked=asked,
            told=self._told,
            instead_of=self._instead_of,
            keep_alive_s=self._keep_alive_s,
        )
        channel = yield from self._launcher.hear(line(plain(call)))
        over = False
        try:
            for data in channel.lines():
                if data[KIND] == GONE:
                    raise Unavailable(data["why"])
                over = data[KIND] == END
                if data[KIND] == OpenedPair.__name__:
                    opened: OpenedPair = read_line(OpenedPair, self._names.as_given(data))
                    self._pair = BackgroundPair(opened, self._options)
                elif not over:
                    yield read_event(self._names.as_given(data))
            if not over:
                raise ConnectionFailed
        except ConnectionFailed:
            raise Unavailable("the background process broke off") from None
        except (KeyError, TypeError, ValueError) as error:
            raise Unavailable(f"the background process said what nobody understands: {error}") from error
        finally:
            self._id = ""
            if not over:
                self._launcher.disconnect()


def _asked(prompt: str, earlier: tuple[Message, ...] | None, options: dict[str, Any]) -> GenerationRequest:
    return GenerationRequest(prompt, earlier, **options | {"stop": tuple(options.get("stop", ()))})


def _notice(alone: Unavailable) -> Iterator[Event]:
    if alone.args:
        yield Notice(f"{alone}; going on without it")
