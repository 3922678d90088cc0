"""A linear layer of quantized weights by itself, for models that are not compiled as a whole."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from specgen.nn.kernels import products, rows
from specgen.nn.kernels.compiler import compile_module
from specgen.nn.kernels.dots import available
from specgen.nn.kernels.grouped import GROUP, Format
from specgen.nn.kernels.panels import PANEL, Panels
from specgen.nn.kernels.products import ProductField, product_name
from specgen.nn.kernels.rows import HEAD, RoundField
from specgen.nn.kernels.team import OperationField, PassField, Program, Team, assemble

_LEAST_CHUNKS = 16
_ROWS = 256
"""Rows that are multiplied at a time."""


class PanelLinear:
    """float32 [rows, in] -> float32 [rows, out]. A row has the same bits beside any others."""

    def __init__(self, panels: Panels, bias: torch.Tensor | None, team: Team) -> None:
        number, groups = panels.levels.shape[:2]
        self._panels, self._team = panels, team
        self._bias: NDArray[np.float32] = np.zeros(number * PANEL, np.float32)
        if bias is not None:
            self._bias[: len(bias)] = bias.float().numpy()
        self._rows = np.zeros((_ROWS, groups * GROUP), np.float32)
        self._levels = np.zeros((_ROWS, groups * GROUP), np.int8)
        self._heads = np.zeros((_ROWS, groups, HEAD // 4), np.int32)
        self._program = Program(assemble([self._round(groups), self._product(number, groups)]))

    def _round(self, groups: int) -> dict[int, Any]:
        return {
            OperationField.FUNCTION: compile_module("rows", rows.FUNCTIONS, rows.build_rows)["round"],
            OperationField.PER_ROW: 1,
            OperationField.FIRST_OF_GROUP: 0,
            RoundField.ROWS: self._rows.ctypes.data,
            RoundField.LEVELS: self._levels.ctypes.data,
            RoundField.HEADS: self._heads.ctypes.data,
            RoundField.GROUPS: groups,
        }

    def _product(self, number: int, groups: int) -> dict[int, Any]:
        panels, dots = self._panels, available()[0]
        form = Format(panels.bits, panels.zero, panels.kind)
        name = product_name(form)
        built = compile_module(f"{name} {dots.name}", [name], lambda module: products.build_product(module, form, dots))
        each = max(1, number // _LEAST_CHUNKS)
        return {
            OperationField.FUNCTION: built[name],
            OperationField.FIXED: -(-number // each),
            OperationField.FIRST_OF_GROUP: 1,
            ProductField.LEVELS: panels.levels.ctypes.data,
            ProductField.SCALES: panels.scales.ctypes.data,
            ProductField.BIAS: self._bias.ctypes.data,
            ProductField.ROWS: self._levels.ctypes.data,
            ProductField.HEADS: self._heads.ctypes.data,
            ProductField.OUT_STRIDE: number * PANEL,
            ProductField.GROUPS: groups,
            ProductField.PANELS: number,
            ProductField.PANELS_OF_CHUNK: each,
            ProductField.LEVELS_OF_PANEL: panels.levels[0].nbytes,
            ProductField.SCALES_OF_PANEL: panels.scales[0].nbytes,
        }

    def __call__(self, given: torch.Tensor) -> torch.Tensor:
        result = torch.empty(len(given), PANEL * len(self._panels.levels))
        for first in range(0, len(given), _ROWS):
            piece = given[first : first + _ROWS]
            self._rows[: len(piece), : piece.shape[1]] = piece.numpy()
            self._program.current[PassField.ROWS] = len(piece)
            self._program.operations[1, ProductField.OUT] = result[first:].data_ptr()
            self._team.run(self._program, 2)
        return result[:, : self._panels.outputs]
