"""Who takes part: the target alone and with each drafter, all over one loaded pair."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Protocol

from specgen.bench.measure import Measurement, Timed, finish, measure
from specgen.core import EngineOptions, SamplingChoice
from specgen.engine.drafters.hybrid import HybridDrafter
from specgen.engine.drafters.lookup import LookupDrafter
from specgen.engine.drafters.model import ModelDrafter
from specgen.engine.drafters.none import NoDrafter
from specgen.engine.interfaces import Drafter, LanguageModel
from specgen.engine.tokens import Tokens
from specgen.errors import UsageError
from specgen.loading import UNLIMITED, Pair
from specgen.session import Session

PLAIN = "plain"
MODEL = "model"
LOOKUP = "lookup"
HYBRID = "hybrid"


class Contender(Protocol):
    """Somebody who continues a prompt.

    `ours` is whether its text must be that of plain decoding. `measures` are those of ours that are compared with it,
    because they do the same: a peer has some.
    """

    @property
    def name(self) -> str: ...

    @property
    def ours(self) -> bool: ...

    @property
    def measures(self) -> tuple[str, ...]: ...

    def run(self, prompt: Sequence[int], new: int) -> Measurement:
        """Read all of `prompt`, nothing of it being cached, and generate: ours at most `new` tokens, a peer so many."""


class Ours:
    """One drafter over the loaded pair; `plain` has none. Raises UsageError for one that the pair does not have."""

    ours = True
    measures = ()

    def __init__(self, name: str, pair: Pair, options: EngineOptions, sampling: SamplingChoice) -> None:
        self.name = name
        self._pair = pair
        self._options = options
        self._sampling = sampling
        if name not in available(pair):
            raise UsageError(f"this pair has no drafter '{name}'", hint=f"there is: {', '.join(available(pair))}")

    def run(self, prompt: Sequence[int], new: int) -> Measurement:
        forget(self._pair.target, prompt)
        target = Timed(self._pair.target)
        drafter, models = self._drafter(prompt)
        pair = dataclasses.replace(self._pair, target=target, drafter=drafter)
        session = Session.over(pair, self._options)
        return measure(session, prompt, self._sampling, new, [target, *models])

    def _drafter(self, prompt: Sequence[int]) -> tuple[Drafter, list[Timed]]:
        """A drafter that knows nothing yet, and the models that it drafts with."""
        pair = self._pair
        if self.name == LOOKUP:
            return LookupDrafter(), []
        if self.name == PLAIN or pair.draft is None:
            return NoDrafter(), []
        forget(pair.draft, prompt)
        draft = Timed(pair.draft)
        drafter = ModelDrafter(draft, pair.shared_vocab, draft.context_length or UNLIMITED)
        return HybridDrafter(LookupDrafter(), drafter) if self.name == HYBRID else drafter, [draft]


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
