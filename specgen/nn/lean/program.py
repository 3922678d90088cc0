"""The operations of a whole pass of the lean decoder, in compiled code, on quantized weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specgen.nn.kernels import attention, products, rows
from specgen.nn.kernels.attention import AttendField, Heads, RotateField
from specgen.nn.kernels.compiler import compile_module
from specgen.nn.kernels.dots import Dots
from specgen.nn.kernels.grouped import GROUP, Format
from specgen.nn.kernels.panels import PANEL, Panels
from specgen.nn.kernels.products import ProductField, product_name
from specgen.nn.kernels.rows import HEAD, CopyField, GateField, NormField, RoundField
from specgen.nn.kernels.team import OperationField, PassField, Program, assemble, float_bits
from specgen.nn.lean.architecture import Architecture, LayerSpec

Floats = NDArray[np.float32]
# Bytes of weights in a chunk of a product: small enough that a late thread delays the others little.
_CHUNK_BYTES = 1 << 17
# Groups of a chunk of the activation.
_GATE_GROUPS = 32
# Chunks that a small product is divided into at least.
_LEAST_CHUNKS = 8


@dataclass(frozen=True, slots=True)
class Matrix:
    """A quantized matrix in panels, and the bias of its outputs, float32 [outputs of all panels]."""

    panels: Panels
    bias: Floats


@dataclass(frozen=True, slots=True)
class QuantizedLayer:
    """The weights of a layer. Norms are float32, padded to whole groups; None where the family has none."""

    before_attention: Floats | None
    queries: Matrix
    keys: Matrix
    values: Matrix
    head_norm: Floats | None
    output: Matrix
    after_attention: Floats | None
    before_mlp: Floats | None
    gate: Matrix
    up: Matrix
    down: Matrix
    after_mlp: Floats | None


def padded(size: int, multiple: int = GROUP) -> int:
    return -(-size // multiple) * multiple


class Buffers:
    """The activations of a pass of up to `count` rows."""

    def __init__(self, architecture: Architecture, count: int) -> None:
        self.hidden_size = padded(architecture.hidden_size)
        self.inner = padded(architecture.intermediate_size)
        queries, keyed = architecture.heads * architecture.head_size, architecture.kv_heads * architecture.head_size
        self.attended_size = padded(queries)
        self.keys_at = padded(queries, PANEL)
        self.values_at = self.keys_at + padded(keyed, PANEL)
        self.qkv_size = self.values_at + padded(keyed, PANEL)
        widest = max(self.hidden_size, self.inner, self.attended_size)
        self.row_table = np.zeros((count, attention.ROW), np.int64)
        self.hidden = np.zeros((count, self.hidden_size), np.float32)
        self.added = np.zeros((count, self.hidden_size), np.float32)
        self.scaled = np.zeros((count, widest), np.float32)
        self.qkv = np.zeros((count, self.qkv_size), np.float32)
        self.attended = np.zeros((count, self.attended_size), np.float32)
        self.joined = np.zeros((count, 2 * self.inner), np.float32)
        self.levels = np.zeros((count, widest), np.int8)
        self.heads = np.zeros((count, widest // GROUP, HEAD // 4), np.int32)


class PassBuilder:
    """Lists the operations of a pass, in order."""

    def __init__(self, architecture: Architecture, dots: Dots, shape: Heads, buffers: Buffers) -> None:
        self._architecture = architecture
        self._dots = dots
        self._shape = shape
        self._buffers = buffers
        self._operations: list[dict[int, Any]] = []
        self._rows = compile_module("rows", rows.FUNCTIONS, rows.build_rows)
        self._attention = compile_module(
            shape.name, attention.FUNCTIONS, lambda module: attention.build_attention(module, shape)
        )

    def __len__(self) -> int:
        return len(self._operations)

    def program(self) -> Program:
        program = Program(assemble(self._operations))
        program.current[PassField.ROW_TABLE] = self._buffers.row_table.ctypes.data
        return program

    def norm(
        self, weight: Floats | None, added_weight: Floats | None, *, add: bool, count: PassField = PassField.ROWS
    ) -> None:
        """Add the last sublayer's result to the states, norm them, and round."""
        buffers, architecture = self._buffers, self._architecture
        self._add(
            self._rows["norm"],
            {
                OperationField.PER_ROW: 1,
                OperationField.COUNT_FIELD: count,
                NormField.HIDDEN: _address(buffers.hidden),
                NormField.ADD: _address(buffers.added) if add else 0,
                NormField.ADD_WEIGHT: _address(added_weight),
                NormField.WEIGHT: _address(weight),
                NormField.LEVELS: _address(buffers.levels),
                NormField.HEADS: _address(buffers.heads),
                NormField.SIZE: buffers.hidden_size,
                NormField.EPSILON: float_bits(architecture.norm_eps),
                NormField.FACTOR: float_bits(architecture.residual_scale),
                NormField.SCALED: _address(buffers.scaled),
                NormField.MEAN_SIZE: architecture.hidden_size,
            },
        )

    def products(
        self, parts: Sequence[tuple[Matrix, int]], out: Floats | None, count: PassField = PassField.ROWS
    ) -> None:
        """Multiply the rounded rows with matrices; each one's outputs begin at a column of `out`.

        `out` None is set before each pass.
        """
        first = len(self._operations)
        for matrix, column in parts:
            self._product(matrix, _address(out) + 4 * column, out.shape[1] if out is not None else 0, count)
        for index in range(first, len(self._operations)):
            last = index == len(self._operations) - 1
            self._operations[index][OperationField.FIRST_OF_GROUP] = first if last else -1

    def _product(self, matrix: Matrix, out: int, stride: int, count: PassField) -> None:
        panels = matrix.panels
        form = Format(panels.bits, panels.zero, panels.kind)
        dots, name = self._dots, product_name(form)
        function = compile_module(
            f"{name} {dots.name}", [name], lambda module: products.build_product(module, form, dots)
        )[name]
        number, groups = panels.levels.shape[:2]
        bytes_ = panels.levels[0].nbytes + panels.scales[0].nbytes
        each = max(1, min(_CHUNK_BYTES // bytes_, number // _LEAST_CHUNKS))
        self._add(
            function,
            {
                OperationField.FIXED: -(-number // each),
                OperationField.COUNT_FIELD: count,
                ProductField.LEVELS: _address(panels.levels),
                ProductField.SCALES: _address(panels.scales),
                ProductField.BIAS: _address(matrix.bias),
                ProductField.ROWS: _address(self._buffers.levels),
                ProductField.HEADS: _address(self._buffers.heads),
                ProductField.OUT: out,
                ProductField.OUT_STRIDE: stride,
                ProductField.GROUPS: groups,
                ProductField.PANELS: number,
                ProductField.PANELS_OF_CHUNK: each,
                ProductField.LEVELS_OF_PANEL: panels.levels[0].nbytes,
                ProductField.SCALES_OF_PANEL: panels.scales[0].nbytes,
            },
        )

    @property
    def rotate_function(self) -> int:
        """The function of the operations whose field TABLE is set before each pass."""
        return self._attention["rotate"]

    def rotate(self, layer: int, spec: LayerSpec, head_norm: Floats | None) -> None:
        """Norm and rotate queries and keys, and write the cache."""
        buffers, architecture = self._buffers, self._architecture
        self._add(
            self._attention["rotate"],
            {
                OperationField.PER_ROW: 1,
                RotateField.QKV: _address(buffers.qkv),
                RotateField.STRIDE: buffers.qkv_size,
                RotateField.KEYS: buffers.keys_at,
                RotateField.VALUES: buffers.values_at,
                RotateField.ROTATED: spec.rope.size if spec.rope else 0,
                RotateField.LAYER: layer,
                RotateField.NORM: _address(head_norm),
                RotateField.EPSILON: float_bits(architecture.norm_eps),
                RotateField.WHOLE_NORM: int(architecture.head_norm == "projection"),
            },
        )

    def attend(self, layer: int, spec: LayerSpec) -> None:
        """Attend, and round the result."""
        buffers, architecture = self._buffers, self._architecture
        self._add(
            self._attention["attend"],
            {
                OperationField.PER_ROW: architecture.kv_heads,
                OperationField.COUNT_FIELD: PassField.TILES,
                AttendField.QKV: _address(buffers.qkv),
                AttendField.STRIDE: buffers.qkv_size,
                AttendField.OUT: _address(buffers.attended),
                AttendField.OUT_STRIDE: buffers.attended_size,
                AttendField.LAYER: layer,
                AttendField.WINDOW: spec.window or 0,
                AttendField.SCALE: float_bits(architecture.attention_scale),
                AttendField.CAP: float_bits(architecture.attention_cap or 0.0),
            },
        )
        self.round(buffers.attended)

    def round(self, rows: Floats) -> None:
        """Round rows [rows, whole groups] to int8."""
        self._add(
            self._rows["round"],
            {
                OperationField.PER_ROW: 1,
                RoundField.ROWS: _address(rows),
                RoundField.LEVELS: _address(self._buffers.levels),
                RoundField.HEADS: _address(self._buffers.heads),
                RoundField.GROUPS: rows.shape[1] // GROUP,
            },
        )

    def copy(self, source: Floats, target: Floats) -> None:
        """Copy the states [rows, hidden size]; `source` may be the normed rows."""
        self._add(
            self._rows["copy"],
            {
                OperationField.PER_ROW: 1,
                CopyField.SOURCE: _address(source),
                CopyField.TARGET: _address(target),
                CopyField.SIZE: self._buffers.hidden_size,
            },
        )

    def gate(self) -> None:
        """The activation of the gate times the other factor, rounded."""
        buffers = self._buffers
        groups = buffers.inner // GROUP
        parts = -(-groups // _GATE_GROUPS)
        self._add(
            self._rows["gate_silu" if self._architecture.activation == "silu" else "gate_gelu"],
            {
                OperationField.PER_ROW: parts,
                GateField.JOINED: _address(buffers.joined),
                GateField.STRIDE: 2 * buffers.inner,
                GateField.UP: buffers.inner,
                GateField.LEVELS: _address(buffers.levels),
                GateField.HEADS: _address(buffers.heads),
                GateField.GROUPS: groups,
                GateField.PARTS: parts,
                GateField.SCALED: _address(buffers.scaled),
            },
        )

    def _add(self, function: int, fields: dict[int, Any]) -> None:
        """Add an operation that begins when the one before has ended, and has an end of its own."""
        own = {OperationField.FUNCTION: function, OperationField.FIRST_OF_GROUP: len(self._operations)}
        self._operations.append(own | fields)


def _address(array: NDArray[Any] | None) -> int:
    return 0 if array is None else int(array.ctypes.data)
