"""A fingerprint of code and environment: processes with the same one give the same answers."""

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import h11

import specgen

# The variables that the libraries read, and those that locate files. specgen's own settings are not among them: the
# client has read them already.
# fmt: off
_PREFIXES = (
    "ACCELERATE_", "ATEN_", "BITSANDBYTES_", "CUBLAS_", "CUDA", "CUDNN_", "DNNL_", "GOMP_",
    "GOTO_", "HF_", "HIP_", "HSA_", "HUGGINGFACE_", "KMP_", "LD_", "LIBOMP",
    "MALLOC_", "MKL_", "NCCL_", "NUMEXPR_", "NVIDIA_", "OMP_", "ONEDNN_", "OPENBLAS_",
    "PYTORCH_", "REQUESTS_", "ROCR_", "SAFETENSORS_", "SSL_", "TOKENIZERS_", "TORCH", "TRANSFORMERS_",
    "TRITON_", "VECLIB_", "ZE_",
)
_NAMES = frozenset({
    "HOME", "TMPDIR", "PYTHONPATH", "PYTHONHOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "TEMP", "TMP",
    "SPECGEN_CONFIG_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME",
})
# fmt: on


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """`location` is the folder of the code. `changed` is the time of its last change, or of the packages', in ns.

    `environment` is a digest of the environment variables and the processor affinity.
    """

    version: str
    location: str
    changed: int
    environment: str

    @classmethod
    def own(cls) -> "Fingerprint":
        """The fingerprint of this process now."""
        package = os.path.dirname(specgen.__file__)  # noqa: PTH120 - pathlib is slow, and this runs at every start
        beside = os.path.dirname(os.path.dirname(h11.__file__))  # noqa: PTH120 - the folder of installed packages
        times = [os.stat(beside).st_mtime_ns, *_changes(package)]  # noqa: PTH116
        return cls(specgen.__version__, f"{sys.prefix} {package}", max(times), _environment())

    def is_newer_than(self, other: "Fingerprint") -> bool:
        """Whether the code is newer: a later version, or a later change of the same one."""
        mine, its = _number(self.version), _number(other.version)
        return mine > its or (mine == its and self.location == other.location and self.changed > other.changed)


def _changes(folder: str) -> Iterator[int]:
    """The modification time of each Python file, in ns."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                yield entry.stat().st_mtime_ns
            elif entry.name != "__pycache__" and entry.is_dir():
                yield from _changes(entry.path)


def _number(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def _environment() -> str:
    found = sorted((name, value) for name, value in os.environ.items() if _matters(name.upper()))
    # Respect the caller's CPU affinity.
    processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return hashlib.sha256(repr((found, processors)).encode("utf-8", "surrogateescape")).hexdigest()


def _matters(name: str) -> bool:
    return name in _NAMES or name.startswith(_PREFIXES) or name.endswith("_PROXY")
