"""The tensors of a checkpoint, read from a memory map when they are asked for."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open


class Tensors:
    """Name -> tensor over safetensors files. A tensor is a view of its file: only what is read of it takes memory."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._file_of: dict[str, Any] = {}
        for path in files:
            opened = safe_open(path, framework="pt")
            self._file_of |= dict.fromkeys(opened.keys(), opened)  # type: ignore[no-untyped-call]

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._file_of[name].get_tensor(name)
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """Without touching the data."""
        return tuple(self._file_of[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """As safetensors names it: F32, BF16 ..."""
        return str(self._file_of[name].get_slice(name).get_dtype())
