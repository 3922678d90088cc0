"""The settings of a benchmark, as plain data that a report carries and --rerun reads back."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeVar

from specgen.core.defaults import DRAFT, SUITE, SUITE_TOKENS
from specgen.core.errors import UsageError
from specgen.core.prices import Prices
from specgen.core.types import Device, Dtype, EngineOptions, Quant, SamplingParams

RegressionKind = Literal["speed", "acceptance", "output"]


class Format(StrEnum):
    """The format in which a report is written."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    MD = "md"
    HTML = "html"


T = TypeVar("T")

_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAX_RANGE = 32  # values of one `k=A..B` range


@dataclass(frozen=True, slots=True)
class Sweep:
    """Values to compare in one run. An empty axis takes its value from the other settings.

    In `draft_lengths`, None stands for the adaptive draft length (`-k auto`).
    """

    draft_lengths: tuple[int | None, ...] = ()
    quants: tuple[Quant, ...] = ()
    dtypes: tuple[Dtype, ...] = ()
    temperatures: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """What to measure. Plain decoding always takes part; `drafters` None adds every drafter of the pair.

    `prompts` limits the prompts of each category. `llama_cpp` is the path of a llama-server. `peer_gguf` holds its
    target and its draft, if any; when empty, the .gguf files of the pair are used. `prefill` is a number of tokens.
    """

    target: str
    draft: str = DRAFT
    engine: EngineOptions = field(default_factory=EngineOptions)
    suite: str = SUITE
    categories: tuple[str, ...] = ()
    prompts: int | None = None
    drafters: tuple[str, ...] | None = None
    sweep: Sweep = field(default_factory=Sweep)
    max_new_tokens: int = SUITE_TOKENS
    repeat: int = 1
    sampling: SamplingParams = field(default_factory=SamplingParams)
    transformers: bool = False
    peer_dtype: Dtype = Dtype.BFLOAT16
    llama_cpp: str | None = None
    peer_gguf: tuple[str, ...] = ()
    roofline: bool = False
    prefill: int | None = None
    prices: Prices = field(default_factory=Prices)


def parse_sweep(texts: Sequence[str]) -> Sweep:
    """Parse `AXIS=VALUES` texts: k=1..8, k=2,4, quant=int8,int4, dtype=..., temp=0,0.8. Raises UsageError.

    Fixed draft lengths are compared with the adaptive one, which comes first.
    """
    values: dict[str, list[str]] = {}
    for text in texts:
        axis, _, given = text.partition("=")
        if axis not in ("k", "quant", "dtype", "temp") or axis in values or not given:
            hint = "each axis once: k=1..8, quant=int8,int4, dtype=float32,bfloat16, temp=0,0.8"
            raise UsageError(f"--sweep is '{text}'", hint=hint)
        values[axis] = [part for value in given.split(",") for part in _expand_range(value.strip())]
    lengths = [length for length in _read("k", values, _draft_length) if length is not None]
    return Sweep(
        draft_lengths=(None, *lengths) if lengths else (),
        quants=_read("quant", values, Quant),
        dtypes=_read("dtype", values, Dtype),
        temperatures=_read("temp", values, _temperature),
    )


def _expand_range(value: str) -> list[str]:
    """Expand `1..3` to 1, 2, 3. Return any other text unchanged."""
    match = _RANGE.fullmatch(value)
    if match is None:
        return [value]
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + _MAX_RANGE:
        raise UsageError(f"--sweep has the range {value}", hint=f"write LOW..HIGH with at most {_MAX_RANGE} numbers")
    return [str(number) for number in range(first, last + 1)]


def _read(axis: str, values: Mapping[str, Sequence[str]], parse: Callable[[str], T]) -> tuple[T, ...]:
    try:
        return tuple(dict.fromkeys(parse(value) for value in values.get(axis, ())))
    except ValueError as error:
        raise UsageError(f"--sweep {axis} has an invalid value: {error}", hint="see --help") from error


def _draft_length(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"'{text}' is not a number of tokens")
    return int(text)


def _temperature(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < float("inf"):
        raise ValueError(f"'{text}' is not a temperature")
    return value


def settings_from_dict(data: Mapping[str, Any]) -> BenchSettings:
    """Invert `dataclasses.asdict`. Raises KeyError, TypeError or ValueError for other data."""
    engine, sweep = data["engine"], data["sweep"]
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    given["engine"] = EngineOptions(
        **engine
        | {"device": Device(engine["device"]), "dtype": Dtype(engine["dtype"]), "quant": Quant(engine["quant"])}
    )
    given["sweep"] = Sweep(
        tuple(sweep["draft_lengths"]),
        tuple(Quant(each) for each in sweep["quants"]),
        tuple(Dtype(each) for each in sweep["dtypes"]),
        tuple(sweep["temperatures"]),
    )
    given["sampling"] = SamplingParams(**data["sampling"])
    given["prices"] = Prices(**data["prices"])
    given["peer_dtype"] = Dtype(data["peer_dtype"])
    return BenchSettings(**given)


def pin_revisions(settings: BenchSettings, header: Mapping[str, Any]) -> BenchSettings:
    """Return `settings` with each model pinned to the revision in the report's `header`, if it has one."""
    names = []
    for role, name in (("target", settings.target), ("draft", settings.draft)):
        model = header.get(role)
        revision = model["revision"] if model else None
        names.append(f"{model['id'].partition('@')[0]}@{revision}" if model and revision else name)
    return dataclasses.replace(settings, target=names[0], draft=names[1])
