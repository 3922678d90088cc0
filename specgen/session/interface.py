"""The protocol that a session in this process and one in the background process share."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from specgen.core.events import Event, LoadedModel, Reason
from specgen.core.tokens import Tokens
from specgen.core.types import Constraint, SamplingChoice
from specgen.engine.text.thinking import Tags

if TYPE_CHECKING:
    from specgen.checkpoint.tokenizer import Tokenizer


class PairInfo(Protocol):
    """The facts about a loaded pair that are known in every process."""

    @property
    def loaded_target(self) -> LoadedModel: ...
    @property
    def loaded_draft(self) -> LoadedModel | None: ...
    @property
    def drafter_name(self) -> str: ...
    @property
    def context_length(self) -> int: ...
    @property
    def tokenizer(self) -> "Tokenizer": ...


class SessionProtocol(Protocol):
    """A pair that generates text: `Session` in this process, `BackgroundSession` in another one.

    The methods are documented in `Session`.
    """

    speculating: bool

    @property
    def pair(self) -> PairInfo: ...
    def open(self) -> Iterator[Event]: ...
    def run(
        self,
        context: Tokens,
        sampling: SamplingChoice | None = None,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        thinking: Tags | None = None,
        constraint: Constraint | None = None,
    ) -> Iterator[Event]: ...
    def generate(
        self,
        prompt: str,
        *,
        system: str | None = None,
        raw: bool = False,
        sampling: SamplingChoice | None = None,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        think: bool | None = None,
        constraint: Constraint | None = None,
    ) -> Iterator[Event]: ...
    def change_draft(self, draft: str) -> Iterator[Event]: ...
    def stop(self, reason: Reason = "interrupted") -> None: ...
    def close(self) -> None: ...
