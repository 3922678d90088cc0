"""Read the header of a .gguf file: metadata and the location of tensors."""

import hashlib
import struct
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from gguf import GGUFReader, GGUFValueType, LlamaFileType, ReaderTensor

from specgen.core.errors import BadFile, UnsupportedModel
from specgen.hub.files import check_parts

_STRING_LENGTH = struct.Struct("<Q")
# The exceptions that reading a damaged file raises.
BROKEN = (OSError, ValueError, LookupError, TypeError, OverflowError, struct.error)


class Header(GGUFReader):
    """A GGUFReader that skips arrays, which cost it 15 s. `array` reads one of them.

    The file is memory-mapped, so tensors are read from disk on access.
    """

    def __init__(self, path: Path) -> None:
        # Copy on write: torch warns of read-only memory. The memory is never written.
        super().__init__(path, "c")
        self.path = path
        self.values: dict[str, Any] = {
            name: _value(field) for name, field in self.fields.items() if not _is_array(field)
        }
        """Name -> text, number or flag."""
        self.lengths = {name: int(field.parts[-1][0]) for name, field in self.fields.items() if _is_array(field)}
        """Name -> number of items of an array."""
        self.tensor: dict[str, ReaderTensor] = {tensor.name: tensor for tensor in self.tensors}

    def array(self, name: str) -> list[Any]:
        """The items of an array. Raises BadFile."""
        try:
            items = self._items(self.fields[name])
        except UnicodeDecodeError as error:
            raise BadFile(f"{self.path}: {name} has text that is not UTF-8", hint="convert the model again") from error
        except BROKEN as error:
            raise _broken(self.path) from error
        if len(items) != self.lengths[name]:
            raise _broken(self.path)
        return items

    def digest(self, prefix: str) -> str:
        """A hash of the names and values of all fields whose names begin with `prefix`."""
        starts = sorted(int(field.offset) for field in self.fields.values())
        starts.append(min((int(tensor.field.offset) for tensor in self.tensors), default=len(self.data)))
        ends = dict(pairwise(starts))
        found = hashlib.sha256()
        for name in sorted(name for name in self.fields if name.startswith(prefix)):
            start = int(self.fields[name].offset)
            found.update(self.data.data[start : ends[start]])
        return found.hexdigest()

    def _items(self, field: Any) -> list[Any]:
        kind, length = (int(part[0]) for part in field.parts[-2:])
        start = field.offset + sum(int(part.nbytes) for part in field.parts)
        if kind != GGUFValueType.STRING:
            items: list[Any] = self._get(start, self.gguf_scalar_to_np[GGUFValueType(kind)], length).tolist()
            return items
        data, texts = self.data.data, []  # a memoryview: struct reads it faster than numpy
        for _ in range(length):
            end = start + 8 + _STRING_LENGTH.unpack_from(data, start)[0]
            texts.append(str(data[start + 8 : end], "utf-8"))
            start = end
        return texts

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[Any]]:
        if raw_type != GGUFValueType.ARRAY:
            parts: tuple[int, list[Any], list[int], list[Any]] = super()._get_field_parts(orig_offs, raw_type)
            return parts
        kind, length = self._get(orig_offs, "u4"), self._get(orig_offs + 4, "u8")
        at = orig_offs + 12
        if kind[0] == GGUFValueType.STRING:
            data = self.data.data
            for _ in range(int(length[0])):
                at += 8 + _STRING_LENGTH.unpack_from(data, at)[0]
        else:
            at += int(length[0]) * self.gguf_scalar_to_np[GGUFValueType(kind[0])]().itemsize
        return at - orig_offs, [kind, length], [1], [GGUFValueType.ARRAY]


def open_header(path: Path) -> Header:
    """The header of a file. The headers of the last two files are cached. Raises BadFile."""
    try:
        status = path.stat()
        return _open(path, status.st_size, status.st_mtime_ns)
    except BROKEN as error:
        raise _broken(path) from error


@lru_cache(maxsize=2)
def _open(path: Path, size: int, modified: int) -> Header:  # noqa: ARG001  a changed file is read again
    return Header(path)


def check_model(path: Path) -> None:
    """Raise UnsupportedModel for a part of a split model and for an adapter. Raises BadFile."""
    header = open_header(path)
    parts = header.values.get("split.count")
    check_parts(path.name, parts if isinstance(parts, int) else 0)
    if header.values.get("general.type") == "adapter":
        raise UnsupportedModel(f"{path} is an adapter, not a whole model", hint="merge it into its base model first")


def read_header(path: Path) -> dict[str, Any]:
    """Name -> metadata, the length for an array; `parameters` is the number of elements of all tensors.

    Raises BadFile.
    """
    header = open_header(path)
    values = header.values | header.lengths
    file_type = values.get("general.file_type")
    if file_type is not None and file_type in LlamaFileType._value2member_map_:
        values["general.file_type"] = LlamaFileType(file_type).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    return {**values, "parameters": sum(int(tensor.n_elements) for tensor in header.tensors)}


def _value(field: Any) -> Any:
    """The value of a field that is not an array. Invalid UTF-8 becomes U+FFFD: descriptions do not change the model."""
    if field.types[:1] == [GGUFValueType.STRING]:
        return bytes(field.parts[-1]).decode("utf-8", "replace")
    return field.contents()


def _is_array(field: Any) -> bool:
    return bool(field.types[:1] == [GGUFValueType.ARRAY])


def _broken(path: Path) -> BadFile:
    return BadFile(f"cannot read {path}: it is not a complete GGUF file", hint="download it again")
