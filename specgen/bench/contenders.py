"""Contenders of a benchmark: plain decoding and every drafter, all over one loaded pair."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from specgen.bench.measure import Measurement, TimedModel, measure, synchronize
from specgen.bench.settings import BenchSettings
from specgen.core.errors import UsageError
from specgen.core.tokens import Tokens
from specgen.core.types import EngineOptions, SamplingChoice
from specgen.engine.drafters.answer_index import AnswerIndex
from specgen.engine.drafters.head import HeadDrafter
from specgen.engine.drafters.hybrid import HybridDrafter
from specgen.engine.drafters.interface import Drafter, NoDrafter
from specgen.engine.drafters.lookup import LookupDrafter
from specgen.engine.drafters.model import ModelDrafter
from specgen.nn.interface import LanguageModel
from specgen.session.pair import UNLIMITED, Pair
from specgen.session.session import Session

PLAIN = "plain"
MODEL = "model"
LOOKUP = "lookup"
HYBRID = "hybrid"
HISTORY = "history"

DRAFTERS = {"none": PLAIN, MODEL: MODEL, LOOKUP: LOOKUP, HYBRID: HYBRID}
"""Drafter name on the command line -> kind of contender."""


class Contender(Protocol):
    """Anything that continues a prompt.

    `kind` is one of the names above, or the name of the peer's program. `own` is False for a peer. Texts of own
    contenders must equal those of plain decoding. `reference` names the contender that the speed-up is relative to.
    `measures` lists the kinds that a peer is compared with.
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def own(self) -> bool: ...

    @property
    def reference(self) -> str: ...

    @property
    def measures(self) -> tuple[str, ...]: ...

    def run(self, prompt: Sequence[int], new: int) -> Measurement:
        """Read `prompt` with nothing of it cached, then generate.

        An own contender generates at most `new` tokens, a peer exactly `new`.
        """


@dataclass(frozen=True, slots=True)
class Variant:
    """The drafter, the options (draft length, number format) and the sampling of one contender."""

    kind: str
    options: EngineOptions
    sampling: SamplingChoice


class OwnContender:
    """One drafter over a loaded pair. Every answer starts without anything learned from the one before.

    Raises UsageError for a drafter that the pair does not have.
    """

    own = True
    measures = ()

    def __init__(
        self, name: str, pair: Pair, variant: Variant, reference: str = PLAIN, earlier: AnswerIndex | None = None
    ) -> None:
        """With `earlier`, lookup drafts from these answers too."""
        self.name = name
        self.kind = variant.kind
        self.reference = reference
        self._pair = pair
        self._variant = variant
        self._earlier = earlier
        if self.kind not in available(pair):
            raise UsageError(f"this pair has no drafter '{self.kind}'", hint=f"there is: {', '.join(available(pair))}")

    def run(self, prompt: Sequence[int], new: int) -> Measurement:
        drop_cache(self._pair.target, prompt)
        target = TimedModel(self._pair.target)
        drafter, models = self._drafter(prompt)
        pair = dataclasses.replace(self._pair, target=target, drafter=drafter)
        session = Session.over(pair, self._variant.options)
        return measure(session, prompt, self._variant.sampling, new, [target, *models])

    def _drafter(self, prompt: Sequence[int]) -> tuple[Drafter, list[TimedModel]]:
        """Return a new drafter and the models that it runs."""
        pair = self._pair
        if self.kind == LOOKUP:
            return LookupDrafter(self._earlier), []
        if self.kind == PLAIN:
            return NoDrafter(), []
        if pair.head is not None:
            head = HeadDrafter(pair.head)
            return HybridDrafter(LookupDrafter(), head) if self.kind == HYBRID else head, []
        assert pair.draft is not None, "checked by available"  # noqa: S101
        drop_cache(pair.draft, prompt)
        draft = TimedModel(pair.draft)
        drafter = ModelDrafter(draft, pair.shared_vocab, draft.context_length or UNLIMITED, pair.translation)
        return HybridDrafter(LookupDrafter(), drafter) if self.kind == HYBRID else drafter, [draft]


def available(pair: Pair) -> list[str]:
    """Kinds of contenders that `pair` supports, plain decoding first."""
    if not pair.target.can_verify:
        return [PLAIN]
    return [PLAIN, MODEL, LOOKUP, HYBRID] if pair.draft or pair.head else [PLAIN, LOOKUP]


def drop_cache(model: LanguageModel, prompt: Sequence[int]) -> None:
    """Empty the cache of `model`: it reads one token that differs from the first of `prompt`."""
    model.forward(Tokens([1 if prompt[0] == 0 else 0]), 1)


def prefill_time(model: LanguageModel, prompt: Sequence[int]) -> float:
    """Seconds that `model` takes to read `prompt`, with nothing of it cached."""
    drop_cache(model, prompt)
    start = time.perf_counter()
    synchronize(model.forward(Tokens(prompt), 1))
    return time.perf_counter() - start


def number_formats(settings: BenchSettings) -> dict[str, EngineOptions]:
    """Label -> options of each number format in the sweep. A single format has the label ""."""
    quants = settings.sweep.quants or (settings.engine.quant,)
    dtypes = settings.sweep.dtypes or (settings.engine.dtype,)
    formats = {}
    for quant in quants:
        for dtype in dtypes:
            parts = [f"quant {quant}"] * (len(quants) > 1) + [str(dtype)] * (len(dtypes) > 1)
            formats[" ".join(parts)] = dataclasses.replace(settings.engine, quant=quant, dtype=dtype)
    return formats


def own_contenders(settings: BenchSettings, pairs: Mapping[str, Pair]) -> list[OwnContender]:
    """All combinations of the sweep. Plain decoding stands before the contenders that refer to it.

    `pairs` maps each label of `number_formats` to the pair loaded in that format.
    """
    made = []
    options = number_formats(settings)
    temperatures = settings.sweep.temperatures or (settings.sampling.temperature,)
    for label, pair in pairs.items():
        kinds = available(pair) if settings.drafters is None else [DRAFTERS[name] for name in settings.drafters]
        for temperature in temperatures:
            suffix = f"temp {temperature:g}" if len(temperatures) > 1 else ""
            # Every field is set, so the model's recommended sampling does not apply.
            sampling = SamplingChoice(**dataclasses.asdict(settings.sampling) | {"temperature": temperature})
            plain = _name(PLAIN, label, suffix)
            for kind in dict.fromkeys([PLAIN, *kinds]):
                lengths = settings.sweep.draft_lengths if kind != PLAIN else ()
                for length in lengths or (settings.engine.num_draft_tokens,):
                    k = f"k={length or 'auto'}" if lengths else ""
                    variant = Variant(kind, dataclasses.replace(options[label], num_draft_tokens=length), sampling)
                    made.append(OwnContender(_name(kind, label, suffix, k), pair, variant, plain))
    return made


def _name(*parts: str) -> str:
    return " ".join(part for part in parts if part)
