"""The folder of packed weights in the user's cache: names, age and deletion of its entries.

An entry is two files: `<key>.bin` with the bytes, and `<key>.json`, its index. The key is a hash of the content of the
weight files and of the packed form. Both files are written under another name and moved, the index last. So two
processes, a full disk or a crash leave a whole entry or none.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from specgen.core.files import cache_folder, read_json

try:
    import fcntl
except ImportError:  # Windows, which does not delete a file that is open
    fcntl = None  # type: ignore[assignment]

# The content of a file is identified by its size, its time and this many samples: hashing all of it takes seconds.
_SAMPLES, _SAMPLE_BYTES = 16, 4096
# Data whose index is still missing after this time, in seconds, was left by a crash.
_ORPHANED_S = 60.0


def folder() -> Path:
    """The folder of the entries, present or not."""
    return cache_folder() / "packed"


def prune() -> int:
    """Delete every entry whose weight files are gone, and what crashes left. Returns the bytes freed."""
    gone = [path for path, index in indexes() if not all(Path(weight).is_file() for weight in index["weights"])]
    return sum(delete(path) for path in gone) + remove_abandoned()


def indexes() -> list[tuple[Path, dict[str, Any]]]:
    """The readable indexes."""
    found = []
    for path in folder().glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            index = read_json(path)
            if isinstance(index, dict) and isinstance(index.get("weights"), list):
                found.append((path, index))
    return found


def delete(index: Path) -> int:
    """Delete an entry, its index first. Returns the bytes freed."""
    return sum(_unlink(file) for file in (index, index.with_suffix(".bin")))


def _unlink(file: Path) -> int:
    try:
        size = file.stat().st_size
        file.unlink()
    except OSError:
        return 0
    return size


def remove_abandoned() -> int:
    """Delete the files of writers that were killed. Returns the bytes freed."""
    freed = 0
    for path in folder().glob("tmp*.part"):
        with contextlib.suppress(OSError), path.open("r+b") as file:
            if fcntl:
                lock(file)  # fails while the writer lives
                freed += _unlink(path)
        if not fcntl:
            freed += _unlink(path)
    for path in folder().glob("*.bin"):
        with contextlib.suppress(OSError):
            if not path.with_suffix(".json").exists() and time.time() - path.stat().st_mtime > _ORPHANED_S:
                freed += _unlink(path)
    return freed


def lock(file: BinaryIO) -> None:
    """Lock a file for as long as it is open. Raises OSError if another process has locked it."""
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def digest(weights: Sequence[Path]) -> str:
    """A hash of the content of the weight files. Raises OSError."""
    found = hashlib.sha256()
    for path in weights:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            found.update(f"{status.st_size} {status.st_mtime_ns}".encode())
            _sample(file, status.st_size, found)
    return found.hexdigest()


def sampled(file: BinaryIO) -> str:
    """A hash of the size and of samples of an open file: it finds what a crash left unwritten. Raises OSError."""
    size = os.fstat(file.fileno()).st_size
    found = hashlib.sha256(str(size).encode())
    _sample(file, size, found)
    return found.hexdigest()


def _sample(file: BinaryIO, size: int, found: "hashlib._Hash") -> None:
    for sample in range(_SAMPLES):
        file.seek(sample * max(0, size - _SAMPLE_BYTES) // (_SAMPLES - 1))
        found.update(file.read(_SAMPLE_BYTES))


def key(content: str, form: str) -> str:
    """The name of the entry of weight files with the hash `content`."""
    return hashlib.sha256(f"{form} {content}".encode()).hexdigest()[:32]
