"""Who takes part: the target alone and with each drafter, all over one loaded pair."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from specgen.bench.measure import Measurement, Timed, finish, measure
from specgen.core.errors import UsageError
from specgen.core.tokens import Tokens
from specgen.core.types import EngineOptions, SamplingChoice
from specgen.engine.drafters.hybrid import HybridDrafter
from specgen.engine.drafters.interface import Drafter, NoDrafter
from specgen.engine.drafters.lookup import LookupDrafter
from specgen.engine.drafters.model import ModelDrafter
from specgen.engine.pacing.controller import make_controller
from specgen.nn.interface import LanguageModel
from specgen.session.pair import UNLIMITED, Pair
from specgen.session.session import Session

PLAIN = "plain"
MODEL = "model"
LOOKUP = "lookup"
HYBRID = "hybrid"


class Contender(Protocol):
    """Somebody who continues a prompt.

    `kind` is the way it does: one of the names above, or of a peer the program that it is of. `ours` is whether its
    text must be that of the contender `reference`, plain decoding in the same number format and with the same sampling,
    over which its speed is stated too. `measures` are the kinds of ours that are compared with it, because they do the
    same: a peer has some.
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def reference(self) -> str: ...

    @property
    def ours(self) -> bool: ...

    @property
    def measures(self) -> tuple[str, ...]: ...

    def run(self, prompt: Sequence[int], new: int) -> Measurement:
        """Read all of `prompt`, nothing of it being cached, and generate: ours at most `new` tokens, a peer so many."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of ours to generate. `options` has its draft length and number format."""

    kind: str
    options: EngineOptions
    sampling: SamplingChoice


class Ours:
    """One drafter over a loaded pair; `plain` has none. Raises UsageError for one that the pair does not have.

    With `learns` what an answer taught about draft lengths serves the next one, as in a chat; else each begins anew.
    """

    ours = True
    measures = ()

    def __init__(
        self, name: str, pair: Pair, variant: Variant, reference: str = PLAIN, *, learns: bool = False
    ) -> None:
        self.name = name
        self.kind = variant.kind
        self.reference = reference
        self.draft_length = variant.options.num_draft_tokens
        self._pair = pair
        self._variant = variant
        self._controller = make_controller(self.draft_length) if learns else None
        if self.kind not in available(pair):
            raise UsageError(f"this pair has no drafter '{self.kind}'", hint=f"there is: {', '.join(available(pair))}")

    def run(self, prompt: Sequence[int], new: int) -> Measurement:
        forget(self._pair.target, prompt)
        target = Timed(self._pair.target)
        drafter, models = self._drafter(prompt)
        pair = dataclasses.replace(self._pair, target=target, drafter=drafter)
        session = Session.over(pair, self._variant.options, self._controller)
        return measure(session, prompt, self._variant.sampling, new, [target, *models])

    def _drafter(self, prompt: Sequence[int]) -> tuple[Drafter, list[Timed]]:
        """A drafter that knows nothing yet, and the models that it drafts with."""
        pair = self._pair
        if self.kind == LOOKUP:
            return LookupDrafter(), []
        if self.kind == PLAIN or pair.draft is None:
            return NoDrafter(), []
        forget(pair.draft, prompt)
        draft = Timed(pair.draft)
        drafter = ModelDrafter(draft, pair.shared_vocab, draft.context_length or UNLIMITED)
        return HybridDrafter(LookupDrafter(), drafter) if self.kind == HYBRID else drafter, [draft]


def available(pair: Pair) -> list[str]:
    """The contenders that `pair` makes possible, plain first."""
    if not pair.target.can_verify:
        return [PLAIN]
    return [PLAIN, MODEL, LOOKUP, HYBRID] if pair.draft else [PLAIN, LOOKUP]


def forget(model: LanguageModel, prompt: Sequence[int]) -> None:
    """Let `model` read one token that `prompt` does not begin with, so that none of it is cached any more."""
    model.forward(Tokens([1 if prompt[0] == 0 else 0]), 1)


def read_time(model: LanguageModel, prompt: Sequence[int]) -> float:
    """The seconds that `model` takes to read `prompt`, nothing of which is cached, and to score what follows."""
    forget(model, prompt)
    start = time.perf_counter()
    finish(model.forward(Tokens(prompt), 1))
    return time.perf_counter() - start
