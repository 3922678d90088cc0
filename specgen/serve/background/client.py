"""A session whose pair stays loaded in the background process, shared by the user's commands."""

import functools
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from specgen.config.pairs import canonical_name
from specgen.core.errors import UsageError
from specgen.core.events import Event, Failed, Finished, Notice, Reason
from specgen.core.types import Constraint, EngineOptions, Message, ModelRef, SamplingChoice
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
    from specgen.core.tokens import Tokens
    from specgen.engine.text.thinking import Tags
    from specgen.session.interface import PairInfo
    from specgen.session.session import Session


class BackgroundPair:
    """A pair that the background process has loaded, see PairInfo. Its tokenizer is read when it is used."""

    def __init__(self, opened: OpenedPair, options: EngineOptions) -> None:
        self.loaded_target = opened.target
        self.loaded_draft = opened.draft
        self.drafter_name = opened.drafter
        self.context_length = opened.context_length
        self._path = Path(opened.path)
        self._options = options

    @functools.cached_property
    def tokenizer(self) -> "Tokenizer":
        from specgen.checkpoint.checkpoint import Checkpoint  # noqa: PLC0415 - only a chat needs it
        from specgen.session.prompt import read_tokenizer  # noqa: PLC0415

        return read_tokenizer(Checkpoint(ModelRef.parse(self.loaded_target.id), self._path), self._options)


class BackgroundSession:
    """A session that the background process runs; it is started where it is missing. See SessionProtocol.

    The process exits `keep_alive_s` seconds after its last request. The pair is loaded in this process if
    `keep_alive_s` is 0, if the model brings its own code, or if the background process cannot answer. An answer that
    breaks off is continued here. With `uses_history` lookup may draft from the user's logged answers.
    """

    def __init__(
        self, target: str, draft: str, options: EngineOptions, keep_alive_s: float, *, uses_history: bool = False
    ) -> None:
        self._target = canonical_name(target)
        self._draft = canonical_name(draft)
        self._options = options
        self._keep_alive_s = keep_alive_s
        self._caller = secrets.token_hex(8)
        self._request_id = ""
        self._notices_shown = False
        self._former_draft: str | None = None
        self._launcher = Launcher()
        self._local: Session | None = None
        self._pair: BackgroundPair | None = None
        self.speculating = True
        self._uses_history = uses_history
        if keep_alive_s > 0 and not options.trust_remote_code and can_launch():
            self._fingerprint = Fingerprint.own()
        else:
            self._local_session()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect. The background process keeps its pair."""
        self._launcher.disconnect()
        if self._local is not None:
            self._local.close()

    def stop(self, reason: Reason = "interrupted") -> None:
        """End the running generation after its current round. Safe in signal handlers."""
        if self._local is not None:
            self._local.stop(reason)
        elif self._request_id:
            self._launcher.interrupt(self._request_id)

    def open(self) -> Iterator[Event]:
        """Load the pair unless it is loaded. Raises SpecgenError."""
        try:
            if self._local is None:
                if self._pair is not None:
                    return
                for event in self._send(None):
                    if isinstance(event, Failed):
                        raise event.error
                    if not isinstance(event, Finished):
                        yield event
                self._notices_shown = True
                return
        except Unavailable as error:
            yield from _notice(error)
        yield from self._local_session().open()

    @property
    def pair(self) -> "PairInfo":
        """The loaded pair. Raises UsageError before `open` has run."""
        if self._local is not None:
            return self._local.pair
        if self._pair is None:
            raise UsageError("the session is not open", hint="exhaust BackgroundSession.open() first")
        return self._pair

    def share_rounds(self, count: int) -> int:
        """Let up to `count` answers share rounds: see Session.share_rounds. The pair must be open in this process."""
        return self._local_session().share_rounds(count)

    def change_draft(self, draft: str) -> Iterator[Event]:
        """Load another draft. Raises SpecgenError; then the old draft stays."""
        if self._local is not None:
            yield from self._local.change_draft(draft)
            return
        former_pair, self._pair = self._pair, None
        self._former_draft, self._draft = self._draft, canonical_name(draft)
        self._notices_shown = False
        try:
            yield from self.open()
        except BaseException:
            if self._local is not None:
                self._local.close()
            self._draft, self._pair, self._local = self._former_draft, former_pair, None
            raise
        finally:
            self._former_draft = None

    def run(
        self,
        context: "Tokens",
        sampling: SamplingChoice | None = None,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        thinking: "Tags | None" = None,
        constraint: Constraint | None = None,
    ) -> Iterator[Event]:
        """Generate after `context`, see Session.run. Raises SpecgenError."""
        if self._local is not None:
            self._local.speculating, self._local.uses_history = self.speculating, self._uses_history
            yield from self._local.run(context, sampling, max_new_tokens, stop, thinking, constraint)
            return
        request = GenerationRequest(
            "",
            context=tuple(context),
            thinking=thinking,
            speculating=self.speculating,
            uses_history=self._uses_history,
            sampling=sampling or SamplingChoice(),
            max_new_tokens=max_new_tokens,
            stop=tuple(stop),
            constraint=constraint,
        )
        for event in self._answer(request):
            if isinstance(event, Failed):
                raise event.error
            yield event

    def generate(self, prompt: str, **options: Any) -> Iterator[Event]:
        """Answer one prompt, see Session.generate. `options` are fields of GenerationRequest."""
        return self._answer(self._request(prompt, None, options))

    def continue_conversation(self, earlier: Sequence[Message], prompt: str, **options: Any) -> Iterator[Event]:
        """Answer the next turn of a conversation, see Conversation.say. `options` as for `generate`."""
        return self._answer(self._request(prompt, tuple(earlier), options))

    def _request(self, prompt: str, earlier: tuple[Message, ...] | None, options: dict[str, Any]) -> GenerationRequest:
        options = options | {"stop": tuple(options.get("stop", ())), "uses_history": self._uses_history}
        return GenerationRequest(prompt, earlier, **options)

    def _answer(self, request: GenerationRequest) -> Iterator[Event]:
        """Answer in the background process, or here where that fails or breaks off."""
        shown = ShownAnswer()
        if self._local is None:
            try:
                for event in self._send(request):
                    shown.add(event)
                    yield event
                return
            except Unavailable as error:
                yield from _notice(error)
        if shown.started is not None:
            request = replace(request, sampling=replace(request.sampling, seed=shown.started.sampling.seed))
        yield from shown.rest(request.answer(self._local_session()))

    def _local_session(self) -> "Session":
        """The session in this process, which answers from now on."""
        if self._local is None:
            from specgen.session.session import Session  # noqa: PLC0415 - imports torch

            self._launcher.disconnect()
            self._local = Session(self._target, self._draft, self._options)
        return self._local

    def _send(self, request: GenerationRequest | None) -> Iterator[Event]:
        """The events of the answer from the background process; None only loads the pair.

        Raises Unavailable before or within the answer.
        """
        self._request_id = secrets.token_hex(8)
        call = Call(
            id=self._request_id,
            caller=self._caller,
            fingerprint=self._fingerprint,
            target=self._target,
            draft=self._draft,
            options=self._options,
            request=request,
            notices_shown=self._notices_shown,
            former_draft=self._former_draft,
            keep_alive_s=self._keep_alive_s,
        )
        channel = yield from self._launcher.hear(line(plain(call)))
        ended = False
        try:
            for data in channel.lines():
                if data[KIND] == GONE:
                    raise Unavailable(data["why"])
                ended = data[KIND] == END
                if data[KIND] == OpenedPair.__name__:
                    self._pair = BackgroundPair(read_line(OpenedPair, data), self._options)
                elif not ended:
                    yield read_event(data)
            if not ended:
                raise ConnectionFailed
        except ConnectionFailed:
            raise Unavailable("the background process broke off") from None
        except (KeyError, TypeError, ValueError) as error:
            raise Unavailable(f"the background process sent an invalid message: {error}") from error
        finally:
            self._request_id = ""
            if not ended:
                self._launcher.disconnect()


def _notice(error: Unavailable) -> Iterator[Event]:
    if error.args:
        yield Notice(f"{error}; going on without it")
