"""Recognize GGUF files by their first bytes, and explain those that specgen cannot read."""

from pathlib import Path

from specgen.core.errors import BadFile, UnsupportedModel
from specgen.core.words import reason
from specgen.hub.files import is_gguf_name

MAGIC = b"GGUF"
LFS_POINTER = b"version https://git-lfs"
_VERSIONS = (2, 3)


def check_format(path: Path) -> None:
    """Raise BadFile or UnsupportedModel unless `path` begins like a GGUF file that specgen reads."""
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError as error:
        raise BadFile(f"cannot read {path}: {reason(error)}", hint="check the file's permissions") from error
    if start.startswith(LFS_POINTER):
        raise BadFile(f"{path} is a Git LFS pointer, not the weights", hint="get them with `git lfs pull`")
    if not start.startswith(MAGIC):
        if is_gguf_name(path.name):
            raise BadFile(f"{path} is not a GGUF file", hint="download it again")
        raise UnsupportedModel(f"{path} is not a GGUF file", hint="give the model's folder, or a .gguf file")
    check_version(path, start)


def check_version(path: Path, start: bytes) -> None:
    """Raise BadFile or UnsupportedModel for the first 8 bytes of a GGUF file in an unreadable version."""
    version = int.from_bytes(start[4:8], "little")
    if len(start) < 8:
        raise BadFile(f"{path} is not a complete GGUF file", hint="download it again")
    if version and version & 0xFFFF == 0:
        raise UnsupportedModel(f"{path} is a big-endian GGUF file", hint="choose a little-endian file of the model")
    if version not in _VERSIONS:
        raise UnsupportedModel(
            f"{path} is a GGUF file of version {version}; specgen reads versions 2 and 3",
            hint="convert the model again" if version < 2 else "choose another file of the model",
        )
