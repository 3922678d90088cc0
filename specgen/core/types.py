"""Value types that every room shares: models, options, sampling parameters, messages."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from specgen.core.errors import UsageError

# Drafts without a model of their own.
LOOKUP = "lookup"
NONE = "none"
# specgen chooses the draft.
AUTO = "auto"
# Prefix of the models that come with the package.
BUNDLED = "bundled:"


class Device(StrEnum):
    AUTO = "auto"
    CUDA = "cuda"
    MPS = "mps"
    XPU = "xpu"
    CPU = "cpu"


class Quant(StrEnum):
    AUTO = "auto"
    NONE = "none"
    INT8 = "int8"
    INT4 = "int4"


class Dtype(StrEnum):
    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The source of a model: a hub id `org/name`, a local folder, a `.gguf` file, or `bundled:` with a folder.

    `revision` is a branch, tag or commit of the hub. `file` is a `.gguf` file of the repository. Local paths have
    neither.
    """

    source: str
    revision: str | None = None
    file: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelRef":
        """Read `org/name[@revision][:file.gguf]`, or a path. A path keeps its `@` and `:`."""
        if text.startswith((".", "/", "~")) or "\\" in text:
            return cls(text)
        model, colon, file = text.partition(":")
        source, at, revision = model.partition("@")
        if source.count("/") > 1 or (at and not revision):
            return cls(text)
        if colon and file.lower().endswith(".gguf"):
            return cls(source, revision or None, file)
        return cls(source, revision) if at and not text.lower().endswith(".gguf") else cls(text)

    @classmethod
    def at(cls, name: str, revision: str | None) -> "ModelRef":
        """The model with this `name` (see there) at a revision."""
        return replace(cls.parse(name), revision=revision)

    @property
    def name(self) -> str:
        """The model without its revision."""
        return f"{self.source}:{self.file}" if self.file else self.source

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"{self.source}{at}:{self.file}" if self.file else f"{self.source}{at}"


@dataclass(frozen=True, slots=True)
class ModelPair:
    """A curated target with its draft; None means lookup. See pairs.toml.

    `about` describes the target to the user, `why` the choice of the draft. `chats` is false for a base model, which
    only continues text.
    """

    name: str
    aliases: tuple[str, ...]
    target: ModelRef
    draft: ModelRef | None
    about: str
    why: str
    chats: bool


@dataclass(frozen=True, slots=True)
class NumberRange:
    """The values that a number may have, `low` and `high` included. `words` describes them to the user."""

    low: float
    high: float
    words: str
    integer: bool = False

    def check(self, name: str, value: object) -> float | int:
        """`value` as int or float. Raises UsageError for another type, for NaN, infinity, or outside the range."""
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        if not self.low <= number <= self.high or (self.integer and number != int(number)):  # NaN fails too
            raise UsageError(f"{name} cannot be {value}", hint=f"it takes {self.words}")
        return int(number) if self.integer else float(number)


_LARGEST = sys.float_info.max
_LARGEST_INT = (1 << 63) - 1
SAMPLING_RANGES: Mapping[str, NumberRange] = {
    "temperature": NumberRange(0.0, _LARGEST, "0 (greedy) or more"),
    "top_k": NumberRange(0, _LARGEST_INT, "a number of tokens, 0 for all", integer=True),
    "top_p": NumberRange(0.0, 1.0, "0 to 1"),
    "min_p": NumberRange(0.0, 1.0, "0 to 1"),
    "repetition_penalty": NumberRange(0.01, _LARGEST, "0.01 or more, 1 for none"),
    "presence_penalty": NumberRange(-_LARGEST, _LARGEST, "a number, 0 for none"),
    "frequency_penalty": NumberRange(-_LARGEST, _LARGEST, "a number, 0 for none"),
    "seed": NumberRange(0, _LARGEST_INT, "a whole number from 0 to 2^63 - 1", integer=True),
}
# Of generated tokens in an answer.
TOKENS_RANGE = NumberRange(1, (1 << 31) - 1, "a number of tokens, 1 or more", integer=True)


def check_sampling(name: str, value: object) -> float | int:
    """`value` of the sampling parameter `name` as int or float. Raises UsageError outside of SAMPLING_RANGES."""
    return SAMPLING_RANGES[name].check(name, value)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a token is drawn from the target's logits. The values are finite; see check_sampling.

    Temperature 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 keep every token. A `repetition_penalty` of 1, and a
    `presence_penalty` and `frequency_penalty` of 0, change nothing. The repetition penalty (Keskar et al. 2019, CTRL)
    counts the prompt too. The other two count only generated tokens.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def penalised(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


@dataclass(frozen=True, slots=True)
class SamplingChoice:
    """Sampling parameters from the user. None leaves a value to the model's recommendation. Raises UsageError."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in SAMPLING_RANGES:
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, check_sampling(name, value))


@dataclass(frozen=True, slots=True)
class Constraint:
    """The form of an answer: JSON of a schema, a full match of a regex, or a text of a grammar (Lark or GBNF)."""

    kind: Literal["json-schema", "regex", "grammar"]
    text: str


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a pair is loaded and run.

    `num_draft_tokens` is a fixed draft length; None adapts it in every round. With `lookup`, n-grams of the prompt and
    the output draft too, beside a draft model.
    """

    device: Device = Device.AUTO
    dtype: Dtype = Dtype.AUTO
    quant: Quant = Quant.AUTO
    threads: int | None = None
    ctx_size: int | None = None
    num_draft_tokens: int | None = None
    lookup: bool = True
    offline: bool = False
    trust_remote_code: bool = False
    verbose: bool = False
    compile: bool = False
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `role` is system, user or assistant."""

    role: str
    content: str
