"""Packed weights on disk: what takes seconds to compute is computed once for a model, a processor and a torch.

An entry is two files in the user's cache folder: `<key>.bin`, and `<key>.json`, which says what lies where in it. The
key is hashed from the content of the weight files and from the format. Both files are written beside and moved into
place, the index last, so that two processes, a full disk or a crash leave a whole entry or none.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from specgen.core.files import cache_folder, read_json, replace_file
from specgen.core.words import reason

# A file's content is told by its size, its time and so many places of so many bytes: hashing all takes seconds.
_PLACES, _PLACE_BYTES = 64, 4096


@dataclass(frozen=True, slots=True)
class Section:
    """`size` bytes from `offset` on. `layout` is the packer's own note on what they mean."""

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
        """Fill `into` with the bytes of a part. Raises OSError."""
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
    """An entry in the making. After a failure, which `failure` tells, it takes and keeps nothing more."""

    def __init__(self, weights: Sequence[Path], form: str) -> None:
        self.failure: str | None = None
        self._weights = [str(path.resolve()) for path in weights]
        self._sections: dict[str, Section] = {}
        self._size = 0
        self._file: BinaryIO | None = None
        try:
            self._base = folder() / _key(weights, form)
            folder().mkdir(parents=True, exist_ok=True)
            descriptor, self._part = tempfile.mkstemp(suffix=".part", dir=folder())
            self._file = open(descriptor, "wb")  # noqa: PTH123, SIM115 - a descriptor, closed by close()
        except OSError as error:
            self._fail(error)

    def add(self, name: str, layout: str, data: memoryview) -> None:
        """Append a part."""
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
        """Make the entry visible."""
        if self._file is None:
            return
        index = {
            "weights": self._weights,
            "size": self._size,
            "parts": {name: asdict(part) for name, part in self._sections.items()},
        }
        try:
            self._file.close()
            Path(self._part).replace(self._base.with_suffix(".bin"))
            replace_file(self._base.with_suffix(".json"), json.dumps(index))
            self._file = None
        except OSError as error:
            self._fail(error)
            return
        # Older entries of the same files are of another content or format: nobody will ask for them.
        for path, older in _indexes():
            if older.get("weights") == self._weights and path.stem != self._base.name:
                _delete(path)

    def close(self) -> None:
        """Drop what was not finished."""
        if self._file is not None:
            self._file.close()
            Path(self._part).unlink(missing_ok=True)
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fail(self, error: OSError) -> None:
        self.failure = reason(error)
        with contextlib.suppress(OSError):  # closing writes what is left, and fails again on a full disk
            self.close()


def folder() -> Path:
    """Where the entries are, whether or not it exists."""
    return cache_folder() / "packed"


def find(weights: Sequence[Path], form: str) -> PackedFile | None:
    """The entry of these weight files in this format, None where there is none that is whole."""
    path = (folder() / _key(weights, form)).with_suffix(".json")
    try:
        index = read_json(path)
        sections = {name: Section(**part) for name, part in index["parts"].items()}
        file = path.with_suffix(".bin").open("rb", buffering=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if os.fstat(file.fileno()).st_size != index["size"]:
        file.close()
        return None
    return PackedFile(path, file, sections)


def prune() -> int:
    """Delete every entry whose weight files are gone; gives the bytes freed."""
    gone = [path for path, index in _indexes() if not all(Path(weight).is_file() for weight in index["weights"])]
    return sum(_delete(path) for path in gone)


def _indexes() -> list[tuple[Path, dict[str, Any]]]:
    """The indexes that can be read."""
    found = []
    for path in folder().glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            index = read_json(path)
            if isinstance(index, dict) and isinstance(index.get("weights"), list):
                found.append((path, index))
    return found


def _delete(index: Path) -> int:
    """Delete an entry, its index first; gives the bytes freed."""
    freed = 0
    for file in (index, index.with_suffix(".bin")):
        with contextlib.suppress(OSError):
            size = file.stat().st_size
            file.unlink()
            freed += size
    return freed


def _key(weights: Sequence[Path], form: str) -> str:
    digest = hashlib.sha256(form.encode())
    for path in weights:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
            for place in range(_PLACES):
                file.seek(place * max(0, status.st_size - _PLACE_BYTES) // (_PLACES - 1))
                digest.update(file.read(_PLACE_BYTES))
    return digest.hexdigest()[:32]
