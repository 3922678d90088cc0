"""What to measure, as plain data: what the command line makes, what a report carries, what --rerun reads back."""

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
    """What a report is written in."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    MD = "md"
    HTML = "html"


T = TypeVar("T")

_RANGE = re.compile(r"(\d+)\.\.(\d+)")
# More draft lengths than anybody reads the row of.
_MOST = 32


@dataclass(frozen=True, slots=True)
class Sweep:
    """Values that are compared in one run; an empty axis has the one value of the other settings.

    Of `draft_lengths` None is as many tokens as pay.
    """

    draft_lengths: tuple[int | None, ...] = ()
    quants: tuple[Quant, ...] = ()
    dtypes: tuple[Dtype, ...] = ()
    temperatures: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """What to measure. `drafters` None is all that the pair has; plain decoding always takes part.

    `llama_cpp` is the path of a llama-server, `peer_gguf` its target and, if there is one, its draft: None are those of
    the pair, where they are .gguf files.
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
    cold_start: bool = False
    fidelity: bool = False
    coupling: bool = False
    prices: Prices = field(default_factory=Prices)


def parse_sweep(texts: Sequence[str]) -> Sweep:
    """The sweep of `AXIS=VALUES` texts: k=1..8, k=2,4, quant=int8,none, dtype=..., temp=0,0.8. Raises UsageError.

    Fixed draft lengths stand beside auto, which comes first.
    """
    values: dict[str, list[str]] = {}
    for text in texts:
        axis, _, given = text.partition("=")
        if axis not in ("k", "quant", "dtype", "temp") or axis in values or not given:
            hint = "each axis once: k=1..8, quant=int8,none, dtype=float32,bfloat16, temp=0,0.8"
            raise UsageError(f"--sweep is '{text}'", hint=hint)
        values[axis] = [part for value in given.split(",") for part in _unfold(value.strip())]
    lengths = [length for length in _read("k", values, _draft_length) if length is not None]
    return Sweep(
        draft_lengths=(None, *lengths) if lengths else (),
        quants=_read("quant", values, Quant),
        dtypes=_read("dtype", values, Dtype),
        temperatures=_read("temp", values, _temperature),
    )


def _unfold(value: str) -> list[str]:
    """`1..3` as 1, 2, 3; anything else as it is."""
    match = _RANGE.fullmatch(value)
    if match is None:
        return [value]
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + _MOST:
        raise UsageError(
            f"--sweep has the range {value}", hint=f"from the lower to the higher, {_MOST} numbers at most"
        )
    return [str(number) for number in range(first, last + 1)]


def _read(axis: str, values: Mapping[str, Sequence[str]], parse: Callable[[str], T]) -> tuple[T, ...]:
    try:
        return tuple(dict.fromkeys(parse(value) for value in values.get(axis, ())))
    except ValueError as error:
        raise UsageError(f"--sweep {axis} has a value that it cannot have: {error}", hint="see --help") from error


def _draft_length(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"'{text}' is no number of tokens")
    return int(text)


def _temperature(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < float("inf"):
        raise ValueError(f"'{text}' is no temperature")
    return value


def as_settings(data: Mapping[str, Any]) -> BenchSettings:
    """The settings that `dataclasses.asdict` made `data` of. Raises KeyError, TypeError, ValueError for other data."""
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


def pinned(settings: BenchSettings, header: Mapping[str, Any]) -> BenchSettings:
    """`settings` with the revisions that a report's `header` says were measured, of models that have one."""
    names = []
    for role, name in (("target", settings.target), ("draft", settings.draft)):
        model = header.get(role)
        revision = model["revision"] if model else None
        names.append(f"{model['id'].partition('@')[0]}@{revision}" if model and revision else name)
    return dataclasses.replace(settings, target=names[0], draft=names[1])
