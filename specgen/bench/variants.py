"""Which contenders a sweep comes to: every drafter at every draft length, number format and temperature."""

import dataclasses
from collections.abc import Mapping

from specgen.bench.contenders import HYBRID, LOOKUP, MODEL, PLAIN, Ours, Variant, available
from specgen.bench.settings import BenchSettings
from specgen.core.types import EngineOptions, SamplingChoice
from specgen.session.pair import Pair

DRAFTERS = {"none": PLAIN, MODEL: MODEL, LOOKUP: LOOKUP, HYBRID: HYBRID}
"""Name on the command line -> kind."""


def number_formats(settings: BenchSettings) -> dict[str, EngineOptions]:
    """What to load the pair with, by a label that says how formats differ; the label of a single one is empty."""
    quants = settings.sweep.quants or (settings.engine.quant,)
    dtypes = settings.sweep.dtypes or (settings.engine.dtype,)
    made = {}
    for quant in quants:
        for dtype in dtypes:
            parts = [f"quant {quant}"] * (len(quants) > 1) + [str(dtype)] * (len(dtypes) > 1)
            made[" ".join(parts)] = dataclasses.replace(settings.engine, quant=quant, dtype=dtype)
    return made


def contenders(settings: BenchSettings, pairs: Mapping[str, Pair]) -> list[Ours]:
    """All of ours, plain decoding before what is compared with it; `pairs` are loaded in the number formats."""
    made = []
    options = number_formats(settings)
    temperatures = settings.sweep.temperatures or (settings.sampling.temperature,)
    for label, pair in pairs.items():
        asked = available(pair) if settings.drafters is None else [DRAFTERS[name] for name in settings.drafters]
        for temperature in temperatures:
            heat = f"temp {temperature:g}" if len(temperatures) > 1 else ""
            # Nothing is left to what a model recommends.
            sampling = SamplingChoice(**dataclasses.asdict(settings.sampling) | {"temperature": temperature})
            plain = _name(PLAIN, label, heat)
            for kind in dict.fromkeys([PLAIN, *asked]):
                lengths = settings.sweep.draft_lengths if kind != PLAIN else ()
                for length in lengths or (settings.engine.num_draft_tokens,):
                    k = f"k={length or 'auto'}" if lengths else ""
                    variant = Variant(kind, dataclasses.replace(options[label], num_draft_tokens=length), sampling)
                    made.append(Ours(_name(kind, label, heat, k), pair, variant, plain))
    return made


def _name(*parts: str) -> str:
    return " ".join(part for part in parts if part)
