"""What `specgen tune` found for a pair on a machine: a small file of JSON each, in the user's data folder.

It holds for the weights that it was measured with, and for this processor or device with these cores: other ones have
other best settings.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.checkpoint.provenance import file_hashes
from specgen.core.errors import BadFile
from specgen.core.types import TUNABLE, Dtype, EngineOptions, ModelRef, Quant
from specgen.history import store as history

if TYPE_CHECKING:
    import torch  # whoever only lists what was tuned need not wait for it

_FORMAT = 1
_BUNDLED = "bundled:"
_DEFAULTS = EngineOptions()


@dataclass(frozen=True, slots=True)
class Weights:
    """A model: which, and its commit on the hub or a digest of its files."""

    id: str
    version: str


@dataclass(frozen=True, slots=True)
class Tuned:
    """The settings that were the fastest, each at its default where nothing was better beyond noise.

    `draft` is None where lookup drafts. `speed_up` is over the defaults, with its 95 % `interval`; both are None where
    the defaults are best. `time` is when that was, in ISO 8601, `specgen` with which version.
    """

    target: Weights
    draft: Weights | None
    machine: str
    num_draft_tokens: int | None
    lookup: bool
    threads: int | None
    quant: Quant
    speed_up: float | None
    interval: tuple[float, float] | None
    time: str
    specgen: str

    def fits(self, target: Checkpoint, draft: Checkpoint | None) -> bool:
        """Whether it was found with these weights. Reads what was never read of large local files."""
        return self.target == weights(target) and self.draft == (weights(draft) if draft else None)

    def fill_in(self, options: EngineOptions) -> EngineOptions:
        """`options` with these settings where they were left open."""
        changed: dict[str, Any] = {
            name: getattr(self, name)
            for name in TUNABLE
            if name not in options.settled and getattr(options, name) == getattr(_DEFAULTS, name)
        }
        if options.dtype is not Dtype.AUTO:
            changed.pop("quant", None)  # a number format was asked for
        return replace(options, **changed)

    def in_words(self) -> str:
        """The options that say it, and what they bring."""
        options = in_options({name: getattr(self, name) for name in TUNABLE})
        if self.speed_up is None:
            return options
        return f"{options} ({self.speed_up:.2f} times as fast as the defaults)"


def in_options(settings: Mapping[str, Any]) -> str:
    """Those of TUNABLE as they are typed; "the defaults" where nothing differs from them."""
    said = []
    for name, value in settings.items():
        if value != getattr(_DEFAULTS, name):
            said.append({"num_draft_tokens": f"-k {value}", "lookup": "--no-lookup"}.get(name, f"--{name} {value}"))
    return " ".join(said) or "the defaults"


def weights(checkpoint: Checkpoint) -> Weights:
    """Which model that is. Raises BadFile."""
    if checkpoint.commit is not None:
        return Weights(_name(checkpoint), checkpoint.commit)
    files = json.dumps(file_hashes(checkpoint), sort_keys=True)
    return Weights(_name(checkpoint), hashlib.sha256(files.encode()).hexdigest())


def machine(device: "torch.device") -> str:
    """What the best settings depend on beside the models: the device, the processor and the cores in use."""
    import torch  # whoever only lists what was tuned need not wait for it

    from specgen.core.machine import cores, processor_name  # noqa: PLC0415

    processor = f"{processor_name()}, {cores()} cores"
    if device.type == "cpu":
        return processor
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{accelerator}, {processor}"


def find_tuned(target: Checkpoint, draft: Checkpoint | None, on: str) -> Tuned | None:
    """What was found for models of these names on the machine `on`, whatever their weights. Raises BadFile."""
    path = _path(_name(target), _name(draft) if draft else None, on)
    return _read(path) if path.is_file() else None


def all_tuned(target: ModelRef) -> dict[Path, Tuned]:
    """Everything that was found for a target of this name, with any draft and on any machine."""
    found = {}
    for path in sorted(folder().glob("*.json")):
        with contextlib.suppress(BadFile):
            found[path] = _read(path)
    return {path: tuned for path, tuned in found.items() if tuned.target.id == name_of(target)}


def name_of(ref: ModelRef) -> str:
    """What a model is called here: a path that exists in full, anything else as it is."""
    with contextlib.suppress(OSError, RuntimeError):
        path = Path(str(ref)).expanduser()
        if not ref.source.startswith(_BUNDLED) and path.exists():
            return str(path.resolve())
    return ref.name


def save(tuned: Tuned) -> Path:
    """Keep it, in place of what was found before. Raises BadFile."""
    path = _path(tuned.target.id, tuned.draft.id if tuned.draft else None, tuned.machine)
    try:
        folder().mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps({"format": _FORMAT, **asdict(tuned)}, indent=2) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise BadFile(
            f"cannot write {path}: {error.strerror}", hint="make room there, or set SPECGEN_DATA_DIR"
        ) from error
    return path


def folder() -> Path:
    """Where they are, whether or not it exists."""
    return history.folder() / "tuned"


def _name(checkpoint: Checkpoint) -> str:
    return checkpoint.ref.name if checkpoint.commit else name_of(checkpoint.ref)


def _path(target: str, draft: str | None, on: str) -> Path:
    digest = hashlib.sha256(json.dumps([target, draft, on]).encode()).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(Path(name).name for name in (target, draft or "lookup")))
    return folder() / f"{readable[:80]}-{digest}.json"


def _read(path: Path) -> Tuned:
    """Raises BadFile."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.pop("format") == _FORMAT:
            draft, interval = data["draft"], data["interval"]
            data |= {"target": Weights(**data["target"]), "draft": Weights(**draft) if draft else None}
            data |= {"quant": Quant(data["quant"]), "interval": tuple(interval) if interval else None}
            tuned = Tuned(**data)
            if _is_sound(tuned):
                return tuned
    raise BadFile(f"{path} is not what specgen tune wrote, and does not count", hint="delete it, or tune again")


def _is_sound(tuned: Tuned) -> bool:
    """Whether these are values that options can have: a person may have edited them."""
    counts = ((tuned.num_draft_tokens, 0), (tuned.threads, 1))
    whole = all(each is None or (type(each) is int and each >= least) for each, least in counts)
    return whole and isinstance(tuned.lookup, bool)
