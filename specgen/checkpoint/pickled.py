"""Names and shapes of the tensors in a pickled file, without running its code and without torch."""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

from specgen.core.errors import BadFile
from specgen.hub.files import DAMAGED

# The largest list of tensors that is read, in bytes. The numbers themselves lie in other members of the file.
_LARGEST = 1 << 24


class _Shape(tuple[int, ...]):
    """The shape of a tensor, so that nothing else in a file is taken for one."""

    __slots__ = ()


def pickled_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors that torch.save wrote. Raises BadFile for a file with anything but tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = next(info for info in archive.infolist() if info.filename.endswith("/data.pkl"))
            if member.file_size > _LARGEST:
                raise pickle.UnpicklingError
            found = _Unpickler(io.BytesIO(archive.read(member))).load()
        if not isinstance(found, dict) or not all(isinstance(shape, _Shape) for shape in found.values()):
            raise pickle.UnpicklingError
    except Exception as error:  # a damaged pickle raises exceptions of any class
        raise BadFile(f"cannot read {path}: it is not a file with tensors alone", hint=DAMAGED) from error
    return {str(name): tuple(shape) for name, shape in found.items()}


class _Unpickler(pickle.Unpickler):
    """Reads a dictionary of tensors as one of shapes. Any other class ends it."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch._utils", "_rebuild_tensor_v2":
                return lambda storage, offset, size, *rest: _Shape(size)  # noqa: ARG005
            case "torch", _ if name.endswith("Storage"):
                return name
        raise pickle.UnpicklingError

    def persistent_load(self, _: Any) -> None:
        """The numbers of a tensor, which are not read."""
