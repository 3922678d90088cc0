"""Whether two processes would do the same: the same code, in environments that are the same where it matters."""

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import h11

import specgen

# What the libraries that load and run models read, and where files are found. Settings of specgen's own are not among
# them: whoever asks has read them already.
_MATTERS = re.compile(
    r"(ACCELERATE|ATEN|BITSANDBYTES|CUBLAS|CUDA|CUDNN|DNNL|GOMP|GOTO|HF|HIP|HSA|HUGGINGFACE|KMP|LD|LIBOMP|MALLOC|MKL"
    r"|NCCL|NUMEXPR|NVIDIA|OMP|ONEDNN|OPENBLAS|PYTORCH|REQUESTS|ROCR|SAFETENSORS|SSL|TOKENIZERS|TORCH|TORCHINDUCTOR"
    r"|TRANSFORMERS|TRITON|VECLIB|ZE)_.*|.*_PROXY|XDG_.*_HOME|HOME|TMPDIR|PYTHONPATH|PYTHONHOME|SPECGEN_CONFIG_DIR",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Identity:
    """`place` is where the code is, `changed` when it or what is installed beside it was last changed, in ns.

    `environment` is a digest of it.
    """

    version: str
    place: str
    changed: int
    environment: str

    @classmethod
    def own(cls) -> "Identity":
        """That of this process as it is now."""
        package = os.path.dirname(specgen.__file__)  # noqa: PTH120 - pathlib is slow here, and every start pays
        beside = os.path.dirname(os.path.dirname(h11.__file__))  # noqa: PTH120 - where packages are installed
        times = [os.stat(beside).st_mtime_ns, *_changes(package)]  # noqa: PTH116
        return cls(specgen.__version__, f"{sys.executable} {package}", max(times), _environment())

    def is_newer_than(self, other: "Identity") -> bool:
        """Whether the code is: a later version, or the same one changed since."""
        mine, its = _number(self.version), _number(other.version)
        return mine > its or (mine == its and self.place == other.place and self.changed > other.changed)


def _changes(folder: str) -> Iterator[int]:
    """When each file of Python was changed, in ns."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                yield entry.stat().st_mtime_ns
            elif entry.name != "__pycache__" and entry.is_dir():
                yield from _changes(entry.path)


def _number(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _environment() -> str:
    found = sorted((name, value) for name, value in os.environ.items() if _MATTERS.fullmatch(name))
    # Whoever is confined to some processors wants to compute on those.
    processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return hashlib.sha256(repr((found, processors)).encode("utf-8", "surrogateescape")).hexdigest()
