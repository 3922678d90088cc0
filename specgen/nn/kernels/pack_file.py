"""Packed weights on disk, so that a model is packed once for each processor and version of torch."""

import contextlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Self

from specgen.core.files import read_json, replace_file
from specgen.core.machine import processor_name
from specgen.nn.kernels import weight_cache


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
        weight_cache.delete(self._index)

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
            self._content = weight_cache.digest(weights)
            self._base = weight_cache.folder() / weight_cache.key(self._content, form)
            weight_cache.folder().mkdir(parents=True, exist_ok=True)
            weight_cache.remove_abandoned()
            descriptor, self._part = tempfile.mkstemp(suffix=".part", dir=weight_cache.folder())
            self._file = open(descriptor, "wb")  # noqa: PTH123, SIM115 - a descriptor, closed by close()
            with contextlib.suppress(OSError):  # a file system without locks
                weight_cache.lock(self._file)
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
        for path, other in weight_cache.indexes():
            # Another processor may share the home folder, and needs its own form of the same content.
            shared = other.get("content") == self._content and other.get("processor") != index["processor"]
            if other["weights"] == self._weights and path.stem != self._base.name and not shared:
                weight_cache.delete(path)

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


def find(weights: Sequence[Path], form: str) -> PackedFile | None:
    """The entry of these weight files in this form, None without a whole one."""
    path = (weight_cache.folder() / weight_cache.key(weight_cache.digest(weights), form)).with_suffix(".json")
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
