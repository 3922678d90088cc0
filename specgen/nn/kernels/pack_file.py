"""Packed weights on disk, so that a model is packed once for each processor and version of torch.

An entry is two files in the user's cache folder: `<key>.bin` with the bytes, and `<key>.json`, its index. The key is a
hash of the content of the weight files and of the packed form. Both files are written under another name and moved, the
index last. So two processes, a full disk or a crash leave a whole entry or none.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from specgen.core.files import cache_folder, read_json, replace_file
from specgen.core.machine import processor_name

try:
    import fcntl
except ImportError:  # Windows, which does not delete a file that is open
    fcntl = None  # type: ignore[assignment]

# The content of a file is identified by its size, its time and this many samples: hashing all of it takes seconds.
_SAMPLES, _SAMPLE_BYTES = 64, 4096
# Data whose index is still missing after this time, in seconds, was left by a crash.
_ORPHANED_S = 60.0


@dataclass(frozen=True, slots=True)
class Section:
    """`size` bytes from `offset` on. `layout` is the kernel's note on their meaning."""

    offset: int
    size: int
    layout: str


class PackedFile:
    """An entry to read from."""

    def __init__(self, index: Path, file: BinaryIO, sections: dict[str, Section]) -> None:
        self._index = index
        self._file = file
        self.sections = sections

    def read(self, name: str, into: memoryview) -> None:
        """Fill `into` with the bytes of a section. Raises OSError."""
        self._file.seek(self.sections[name].offset)
        if self._file.readinto(into) != len(into):  # type: ignore[attr-defined]
            raise OSError(f"{self._file.name} ends early")

    def discard(self) -> None:
        """Close and delete the entry."""
        self.close()
        _delete(self._index)

    def close(self) -> None:
        self._file.close()


class PackedWriter:
    """Writes an entry. After an error, whose reason is `failure`, it ignores all calls and keeps nothing."""

    def __init__(self, weights: Sequence[Path], form: str) -> None:
        self.failure: str | None = None
        self._weights = [str(path.resolve()) for path in weights]
        self._sections: dict[str, Section] = {}
        self._size = 0
        self._file: BinaryIO | None = None
        try:
            self._content = _digest(weights)
            self._base = folder() / _key(self._content, form)
            folder().mkdir(parents=True, exist_ok=True)
            _remove_abandoned()
            descriptor, self._part = tempfile.mkstemp(suffix=".part", dir=folder())
            self._file = open(descriptor, "wb")  # noqa: PTH123, SIM115 - a descriptor, closed by close()
            with contextlib.suppress(OSError):  # a file system without locks
                _lock(self._file)
        except OSError as error:
            self._fail(error)

    def add(self, name: str, layout: str, data: memoryview) -> None:
        """Append a section."""
        if self._file is None:
            return
        try:
            self._file.write(data)
        except OSError as error:
            self._fail(error)
            return
        self._sections[name] = Section(self._size, len(data), layout)
        self._size += len(data)

    def finish(self) -> None:
        """Make the entry visible, and delete those that it replaces."""
        if self._file is None:
            return
        index = {
            "weights": self._weights,
            "content": self._content,
            "processor": processor_name(),
            "size": self._size,
            "sections": {name: asdict(section) for name, section in self._sections.items()},
        }
        try:
            self._file.close()
            Path(self._part).replace(self._base.with_suffix(".bin"))
            replace_file(self._base.with_suffix(".json"), json.dumps(index))
            self._file = None
        except OSError as error:
            self._fail(error)
            return
        for path, other in _indexes():
            # Another processor may share the home folder, and needs its own form of the same content.
            shared = other.get("content") == self._content and other.get("processor") != index["processor"]
            if other["weights"] == self._weights and path.stem != self._base.name and not shared:
                _delete(path)

    def close(self) -> None:
        """Drop an unfinished entry."""
        if self._file is not None:
            self._file.close()
            Path(self._part).unlink(missing_ok=True)
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fail(self, error: OSError) -> None:
        self.failure = error.strerror or str(error)
        with contextlib.suppress(OSError):  # closing flushes, and fails again on a full disk
            self.close()


def folder() -> Path:
    """The folder of the entries, present or not."""
    return cache_folder() / "packed"


def find(weights: Sequence[Path], form: str) -> PackedFile | None:
    """The entry of these weight files in this form, None without a whole one."""
    path = (folder() / _key(_digest(weights), form)).with_suffix(".json")
    try:
        index = read_json(path)
        sections = {name: Section(**section) for name, section in index["sections"].items()}
        file = path.with_suffix(".bin").open("rb", buffering=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if os.fstat(file.fileno()).st_size != index["size"]:
        file.close()
        return None
    return PackedFile(path, file, sections)


def prune() -> int:
    """Delete every entry whose weight files are gone, and what crashes left. Returns the bytes freed."""
    gone = [path for path, index in _indexes() if not all(Path(weight).is_file() for weight in index["weights"])]
    return sum(_delete(path) for path in gone) + _remove_abandoned()


def _indexes() -> list[tuple[Path, dict[str, Any]]]:
    """The readable indexes."""
    found = []
    for path in folder().glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            index = read_json(path)
            if isinstance(index, dict) and isinstance(index.get("weights"), list):
                found.append((path, index))
    return found


def _delete(index: Path) -> int:
    """Delete an entry, its index first. Returns the bytes freed."""
    return sum(_unlink(file) for file in (index, index.with_suffix(".bin")))


def _unlink(file: Path) -> int:
    try:
        size = file.stat().st_size
        file.unlink()
    except OSError:
        return 0
    return size


def _remove_abandoned() -> int:
    """Delete the files of writers that were killed. Returns the bytes freed."""
    freed = 0
    for path in folder().glob("tmp*.part"):
        with contextlib.suppress(OSError), path.open("r+b") as file:
            if fcntl:
                _lock(file)  # fails while the writer lives
                freed += _unlink(path)
        if not fcntl:
            freed += _unlink(path)
    for path in folder().glob("*.bin"):
        with contextlib.suppress(OSError):
            if not path.with_suffix(".json").exists() and time.time() - path.stat().st_mtime > _ORPHANED_S:
                freed += _unlink(path)
    return freed


def _lock(file: BinaryIO) -> None:
    """Lock a file for as long as it is open. Raises OSError if another process has locked it."""
    if fcntl:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _digest(weights: Sequence[Path]) -> str:
    """A hash of the content of the weight files. Raises OSError."""
    digest = hashlib.sha256()
    for path in weights:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
            for sample in range(_SAMPLES):
                file.seek(sample * max(0, status.st_size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _key(content: str, form: str) -> str:
    return hashlib.sha256(f"{form} {content}".encode()).hexdigest()[:32]
