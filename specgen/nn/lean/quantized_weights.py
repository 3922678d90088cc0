"""The weights of the compiled decoder: matrices in panels, and norms and biases in float32."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from specgen.nn.kernels.panel_file import Matrices
from specgen.nn.kernels.panels import PANEL
from specgen.nn.lean.architecture import Architecture
from specgen.nn.lean.panel_weights import name_of, stored_rows
from specgen.nn.lean.program import Floats, Matrix, QuantizedLayer, padded
from specgen.nn.lean.rope import interleave
from specgen.nn.lean.weights import EMBEDDING, NORM, Tensors


@dataclass(frozen=True, slots=True)
class QuantizedWeights:
    """A model without its cache. `embed`: ids -> float32 [rows, hidden size]."""

    embed: Callable[[Sequence[int]], torch.Tensor]
    layers: tuple[QuantizedLayer, ...]
    norm: Floats
    head: Matrix


def read_quantized(architecture: Architecture, tensors: Tensors, matrices: Matrices) -> QuantizedWeights:
    """The weights of a model whose `matrices` panel_weights.load_matrices has made from its `tensors`."""
    reader = _Reader(architecture, tensors, matrices)

    def embed(ids: Sequence[int]) -> torch.Tensor:
        if max(ids) >= architecture.vocab_size:
            raise IndexError(f"token {max(ids)} of {architecture.vocab_size}")
        rows = tensors.values(EMBEDDING, ids)
        return rows if architecture.embedding_scale == 1 else rows * architecture.embedding_scale

    layers = tuple(reader.layer(index) for index in range(len(architecture.layers)))
    return QuantizedWeights(embed, layers, reader.norm(NORM), reader.head())


class _Reader:
    def __init__(self, architecture: Architecture, tensors: Tensors, matrices: Matrices) -> None:
        self._architecture = architecture
        self._tensors = tensors
        self._matrices = matrices
        self._stored = stored_rows(architecture)

    def layer(self, index: int) -> QuantizedLayer:
        architecture, norms = self._architecture, self._architecture.norms
        prefix = f"model.layers.{index}."

        def norm(name: str | None) -> Floats | None:
            return self.norm(f"{prefix}{name}.weight") if name else None

        def matrix(name: str, *, biased: bool) -> Matrix:
            tensor, order = self._stored[name]
            bias = self._tensors[f"{prefix}{tensor}.bias"].float() if biased else None
            bias = bias if bias is None or order is None else bias[order]
            return self._matrix(name_of(index, name), bias)

        return QuantizedLayer(
            before_attention=norm(norms.before_attention),
            queries=matrix("queries", biased=architecture.qkv_bias),
            keys=matrix("keys", biased=architecture.qkv_bias),
            values=matrix("values", biased=architecture.qkv_bias),
            head_norm=self._head_norm(prefix) if architecture.head_norm != "none" else None,
            output=matrix("output", biased=architecture.output_bias),
            after_attention=norm(norms.after_attention),
            before_mlp=norm(norms.before_mlp),
            gate=matrix("gate", biased=architecture.mlp_bias),
            up=matrix("up", biased=architecture.mlp_bias),
            down=matrix("down", biased=architecture.mlp_bias),
            after_mlp=norm(norms.after_mlp),
        )

    def head(self) -> Matrix:
        return self._matrix("head", None)

    def norm(self, name: str) -> Floats:
        """The weight of a norm, padded to whole groups."""
        return _padded(self._norm_weight(name), padded(self._architecture.hidden_size))

    def _matrix(self, name: str, bias: torch.Tensor | None) -> Matrix:
        panels = self._matrices[name]
        outputs = PANEL * len(panels.levels)
        return Matrix(panels, np.zeros(outputs, np.float32) if bias is None else _padded(bias, outputs))

    def _head_norm(self, prefix: str) -> Floats:
        """float32 [heads + kv_heads, head_size], in the order of the rotated dimensions."""
        architecture = self._architecture
        rotated = max((layer.rope.size for layer in architecture.layers if layer.rope), default=0)
        weights = []
        for name, heads in (("q_norm", architecture.heads), ("k_norm", architecture.kv_heads)):
            weight = self._norm_weight(f"{prefix}self_attn.{name}.weight")
            weight = weight.repeat(heads) if architecture.head_norm == "head" else weight
            weights.append(interleave(weight, architecture.head_size, rotated))
        return np.ascontiguousarray(torch.cat(weights).numpy())

    def _norm_weight(self, name: str) -> torch.Tensor:
        weight = self._tensors[name].float()
        return weight + 1 if self._architecture.unit_offset else weight


def _padded(vector: torch.Tensor, size: int) -> Floats:
    whole = np.zeros(size, np.float32)
    whole[: len(vector)] = vector.numpy()
    return whole
