"""Headers of safetensors files: names, dtypes and shapes of tensors."""

from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from specgen.checkpoint.gguf.format import LFS_POINTER
from specgen.core.errors import BadFile
from specgen.hub.files import PICKLE


def verify(files: Iterable[Path]) -> None:
    """Raise BadFile unless the header of every safetensors file matches its size to the byte."""
    for path in files:
        if path.name != PICKLE:
            tensor_shapes(path)


def tensor_shapes(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Name -> (dtype such as BF16, shape), read from the header. Raises BadFile."""
    try:
        with safe_open(path, framework="np") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118  not a mapping
            return {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        reason = "it is not a complete safetensors file"
        if isinstance(error, PermissionError):
            reason = "permission denied"
        elif _is_pointer(path):
            reason = "it is a Git LFS pointer, not the weights (`git lfs pull` gets them)"
        raise BadFile(f"cannot read {path}: {reason}", hint="delete it and download the model again") from error


def _is_pointer(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        return False
