"""The value types that every layer shares, and the one place where a default is written down."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

# Drafters that are no models.
LOOKUP = "lookup"
NONE = "none"
# Let specgen choose the draft.
AUTO = "auto"
# The context that memory is planned for where nobody asks for one: caches grow as they are used, and few answers fill
# the longest context that a model allows.
PLANNED_CONTEXT = 4096
# How long models stay loaded after the last question.
KEEP_ALIVE = "5m"


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


class Dtype(StrEnum):
    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


@dataclass(frozen=True, slots=True)
class ModelRef:
    """Where a model comes from: a hub id `org/name`, a local folder, a `.gguf` file, or `bundled:` with a folder.

    `revision` is a branch, tag or commit of the hub, `file` a `.gguf` file of the repository; neither means anything
    for a local path.
    """

    source: str
    revision: str | None = None
    file: str | None = None

    @classmethod
    def parse(cls, text: str) -> "ModelRef":
        """Read `org/name[@revision][:file.gguf]` or a path, which keeps its `@` and `:`."""
        if text.startswith((".", "/", "~")) or "\\" in text:
            return cls(text)
        model, colon, file = text.partition(":")
        source, at, revision = model.partition("@")
        if source.count("/") > 1 or (at and not revision):
            return cls(text)
        if colon and file.endswith(".gguf"):
            return cls(source, revision or None, file)
        return cls(source, revision) if at and not text.endswith(".gguf") else cls(text)

    @classmethod
    def at(cls, name: str, revision: str | None) -> "ModelRef":
        """The model of that `name`, see there, at a revision."""
        return replace(cls.parse(name), revision=revision)

    @property
    def name(self) -> str:
        """Which model it is, whatever its revision."""
        return f"{self.source}:{self.file}" if self.file else self.source

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"{self.source}{at}:{self.file}" if self.file else f"{self.source}{at}"


@dataclass(frozen=True, slots=True)
class ModelPair:
    """A curated target with the draft that fits it, None where lookup does; see pairs.toml.

    `about` and `why` are sentences for the user: what the target is, and why this draft. `chats`
    is false for a target that only continues text.
    """

    name: str
    aliases: tuple[str, ...]
    target: ModelRef
    draft: ModelRef | None
    about: str
    why: str
    chats: bool


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a token is drawn from the target's logits. Zero temperature is greedy.

    `top_k` 0, `top_p` 1 and `min_p` 0 keep every token; a `repetition_penalty` of 1 and `presence_penalty`
    and `frequency_penalty` of 0 change nothing. The repetition penalty (Keskar et al. 2019, CTRL) counts the
    prompt too, the other two only what was generated.
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
    """What the user asked for; None leaves it to the model's own recommendation."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Constraint:
    """What an answer must be: JSON of a schema, a whole match of a regex, or a text of a grammar (Lark or GBNF)."""

    kind: Literal["json-schema", "regex", "grammar"]
    text: str


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a pair is opened and run.

    `num_draft_tokens` is drafted in every round; None leaves it to what pays. With `lookup` a draft model is helped by
    n-grams of the prompt and the output.
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


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. `role` is system, user or assistant."""

    role: str
    content: str
