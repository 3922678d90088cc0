"""Reads the weights of a checkpoint into the layers of the lean decoder."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the field's name
from numpy.typing import NDArray
from safetensors import safe_open

from specgen.core.errors import UnsupportedModel
from specgen.nn.device import Placement
from specgen.nn.kernels.grouped import FloatRows
from specgen.nn.kernels.linear import Linear
from specgen.nn.kernels.linears import Linears, join
from specgen.nn.kernels.panels import Packable
from specgen.nn.kernels.quantize import Int8Rows, StoredFloats
from specgen.nn.lean.architecture import Architecture
from specgen.nn.lean.layer import HeadNorm, Layer, Norm
from specgen.nn.lean.rope import interleave


class Tensors:
    """The tensors of safetensors files by name. Each is a view of its file, so only pages that are read take memory."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._file_of: dict[str, Any] = {}
        for path in files:
            opened = safe_open(path, framework="pt")
            self._file_of |= dict.fromkeys(opened.keys(), opened)  # type: ignore[no-untyped-call]

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def names(self) -> Iterable[str]:
        """The names of all tensors."""
        return self._file_of

    def stored_name(self, name: str) -> str:
        """The name of a tensor in its file."""
        return name

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._file_of[name].get_tensor(name)
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape, without reading the data."""
        return tuple(self._file_of[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """The dtype in the terms of safetensors: F32, BF16 ..."""
        return str(self._file_of[name].get_slice(name).get_dtype())

    def values(self, name: str, rows: Sequence[int]) -> torch.Tensor:
        """Some rows of a matrix [out, in], float32 [rows, in]. Reads no others."""
        return self[name][torch.tensor(rows, dtype=torch.long)].float()

    def rounded(self) -> list[str]:
        """The types of quantized tensors that must be rounded once more."""
        return []

    def floats(self, name: str, order: torch.Tensor | None) -> FloatRows:
        """The rows of a matrix that `order` names, or all, to be read later."""
        return StoredFloats(_bits(self[name]), None if order is None else order.numpy())

    def packable(self, name: str, order: torch.Tensor | None) -> Packable:
        """The same rows as the file has them, or rounded to 8 bits."""
        return Int8Rows(self.floats(name, order))


def _bits(weight: torch.Tensor) -> NDArray[Any]:
    """The same memory as numpy's array; bfloat16, which numpy lacks, as uint16."""
    array: NDArray[Any] = weight.view(torch.uint16).numpy() if weight.dtype == torch.bfloat16 else weight.numpy()
    return array


EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
NORM = "model.norm.weight"
_DTYPES = ("F32", "BF16", "F16")
# Tensors with these prefixes are computed with. Others belong to value heads, vision or multi-token prediction.
_COMPUTED = ("model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.")
# These are recomputed, or scale a quantized cache.
_IGNORED = ("rotary_emb.", "self_attn.k_scale", "self_attn.v_scale")


@dataclass(frozen=True, slots=True)
class Weights:
    """A model without its cache. `embed`: ids -> [rows, hidden]; `score`: [rows, hidden] -> float32 [rows, vocab].

    A pass has at least `rows` rows. fused: the module nn/kernels/fused.py, None for torch.
    """

    embed: Callable[[torch.Tensor], torch.Tensor]
    layers: tuple[Layer, ...]
    norm: Norm
    score: Linear
    rows: int
    fused: ModuleType | None


def tensor_shapes(architecture: Architecture) -> Mapping[str, tuple[int, ...]]:
    """The names and shapes of the tensors of an architecture, without the output head."""
    queries, keyed = architecture.heads * architecture.head_size, architecture.kv_heads * architecture.head_size
    if architecture.fused:
        inputs = {"self_attn.qkv_proj": queries + 2 * keyed}
        gates = {"mlp.gate_up_proj": 2 * architecture.intermediate_size}
    else:
        inputs = {"self_attn.q_proj": queries, "self_attn.k_proj": keyed, "self_attn.v_proj": keyed}
        gates = {"mlp.gate_proj": architecture.intermediate_size, "mlp.up_proj": architecture.intermediate_size}
    layer: dict[str, tuple[int, ...]] = {}
    for sizes, width, biased in (
        (inputs, architecture.hidden_size, architecture.qkv_bias),
        ({"self_attn.o_proj": architecture.hidden_size}, queries, architecture.output_bias),
        (gates, architecture.hidden_size, architecture.mlp_bias),
        ({"mlp.down_proj": architecture.hidden_size}, architecture.intermediate_size, architecture.mlp_bias),
    ):
        layer |= {f"{name}.weight": (size, width) for name, size in sizes.items()}
        layer |= {f"{name}.bias": (size,) for name, size in sizes.items() if biased}
    norms = architecture.norms
    for name in (norms.before_attention, norms.after_attention, norms.before_mlp, norms.after_mlp):
        layer |= {f"{name}.weight": (architecture.hidden_size,)} if name else {}
    if architecture.head_norm != "none":
        each = architecture.head_norm == "head"
        layer["self_attn.q_norm.weight"] = (architecture.head_size if each else queries,)
        layer["self_attn.k_norm.weight"] = (architecture.head_size if each else keyed,)
    shapes = {
        f"model.layers.{i}.{name}": shape for i in range(len(architecture.layers)) for name, shape in layer.items()
    }
    return shapes | {EMBEDDING: (architecture.vocab_size, architecture.hidden_size), NORM: (architecture.hidden_size,)}


def find_fault(architecture: Architecture, tensors: Tensors) -> str | None:
    """The reason why the lean decoder cannot read `tensors`, None if it can."""
    shapes = dict(tensor_shapes(architecture))
    if HEAD in tensors or not architecture.tied:
        shapes[HEAD] = shapes[EMBEDDING]
    for name in shapes:
        if name not in tensors:
            return f"no tensor {name}"
        if tensors.dtype(name) not in _DTYPES:
            return f"{name} of dtype {tensors.dtype(name)}"
    return None


def check_fit(architecture: Architecture, tensors: Tensors, path: Path) -> None:
    """Raise UnsupportedModel for a tensor with another shape than the config's, and for one that no layer reads.

    transformers would fail on the first, and ignore the second, which makes the text wrong.
    """
    shapes = dict(tensor_shapes(architecture))
    shapes[HEAD] = shapes[EMBEDDING]
    for name in tensors.names():
        if name in shapes and (found := tensors.shape(name)) != shapes[name]:
            fault = f"has the shape {list(found)}, its config asks for {list(shapes[name])}"
        elif name not in shapes and name.startswith(_COMPUTED) and not any(part in name for part in _IGNORED):
            fault = "is not part of this architecture, so the text would be wrong"
        else:
            continue
        raise UnsupportedModel(f"{path}: the tensor {tensors.stored_name(name)} {fault}", hint="choose another model")


def read_weights(
    architecture: Architecture,
    tensors: Tensors,
    placement: Placement,
    linears: Linears,
    fused: ModuleType | None = None,
) -> Generator[float, None, Weights]:
    """Read the weights, each tensor once, with no weight in memory twice. `find_fault` must have found no fault.

    Yields the fraction read so far. fused: as in Weights.
    """
    reader = _Reader(architecture, tensors, placement, linears, fused)
    table = tensors[EMBEDDING]  # on a CPU a view of its file
    if placement.device.type != "cpu":
        table = table.to(placement.device, placement.dtype)
    # transformers rounds Gemma's scale to the dtype of the weights, and Gemma was trained that way.
    scale = torch.tensor(architecture.embedding_scale, dtype=placement.dtype, device=placement.device)
    tied = HEAD not in tensors
    head = linears.make("head", lambda: [table if tied else tensors[HEAD]], None)

    def embed(ids: torch.Tensor) -> torch.Tensor:
        rows = F.embedding(ids, table).to(placement.dtype)
        return rows if architecture.embedding_scale == 1 else rows * scale

    def score(rows: torch.Tensor) -> torch.Tensor:
        logits = head(rows).float()
        if architecture.logits_divisor != 1:
            logits /= architecture.logits_divisor
        if architecture.logits_cap is not None:
            logits = (logits / architecture.logits_cap).tanh_().mul_(architecture.logits_cap)
        return logits

    layers: list[Layer] = []
    while len(layers) < len(architecture.layers):
        layers.append(reader.layer(len(layers)))
        yield len(layers) / len(architecture.layers)
    return Weights(embed, tuple(layers), reader.norm(NORM), score, linears.rows, fused)


class _Reader:
    """Reads layers: converts the dtype, joins matrices with the same input, and interleaves rotated rows."""

    def __init__(
        self,
        architecture: Architecture,
        tensors: Tensors,
        placement: Placement,
        linears: Linears,
        fused: ModuleType | None,
    ) -> None:
        self._fused = fused
        self._architecture = architecture
        self._tensors = tensors
        self._placement = placement
        self._linears = linears
        self._rotated_size = max((layer.rope.size for layer in architecture.layers if layer.rope), default=0)

    def layer(self, index: int) -> Layer:
        architecture, norms = self._architecture, self._architecture.norms
        layer = f"model.layers.{index}."
        attention, mlp = layer + "self_attn.", layer + "mlp."
        gates = ["gate_up_proj"] if architecture.fused else ["gate_proj", "up_proj"]

        def norm(name: str | None) -> Norm | None:
            return self.norm(f"{layer}{name}.weight") if name else None

        def joined(prefix: str, names: list[str], *, biased: bool) -> Linear:
            biases = [self._tensors[f"{prefix}{name}.bias"] for name in names] if biased else []
            return self._linears.make(
                prefix + names[0],
                lambda: [self._tensors[f"{prefix}{name}.weight"] for name in names],
                self._bias(biases),
            )

        def qkv() -> Linear:
            bias = self._bias(self._qkv(attention, "bias") if architecture.qkv_bias else [])
            return self._linears.make(attention + "qkv", lambda: self._qkv(attention, "weight"), bias)

        return Layer(
            architecture,
            self._fused,
            before_attention=norm(norms.before_attention),
            qkv=qkv(),
            head_norm=None if architecture.head_norm == "none" else self._head_norm(attention),
            output=joined(attention, ["o_proj"], biased=architecture.output_bias),
            after_attention=norm(norms.after_attention),
            before_mlp=norm(norms.before_mlp),
            gate_up=joined(mlp, gates, biased=architecture.mlp_bias),
            down=joined(mlp, ["down_proj"], biased=architecture.mlp_bias),
            after_mlp=norm(norms.after_mlp),
        )

    def norm(self, name: str) -> Norm:
        return Norm(self._norm_weight(name), self._architecture.norm_eps, self._fused)

    def _bias(self, parts: list[torch.Tensor]) -> torch.Tensor | None:
        return join(parts, self._placement) if parts else None

    def _qkv(self, prefix: str, kind: str) -> list[torch.Tensor]:
        architecture = self._architecture
        if architecture.fused:
            keys = architecture.heads * architecture.head_size
            values = keys + architecture.kv_heads * architecture.head_size
            parts = self._tensors[f"{prefix}qkv_proj.{kind}"].tensor_split((keys, values))
        else:
            parts = tuple(self._tensors[f"{prefix}{name}_proj.{kind}"] for name in "qkv")
        return [*(interleave(part, architecture.head_size, self._rotated_size) for part in parts[:2]), parts[2]]

    def _head_norm(self, prefix: str) -> HeadNorm:
        architecture = self._architecture
        weights = []
        for name, heads in (("q_norm", architecture.heads), ("k_norm", architecture.kv_heads)):
            weight = self._norm_weight(f"{prefix}{name}.weight")
            weight = weight.repeat(heads) if architecture.head_norm == "head" else weight
            weights.append(
                interleave(weight, architecture.head_size, self._rotated_size).view(heads, architecture.head_size)
            )
        return HeadNorm(
            torch.cat(weights),
            architecture.norm_eps,
            architecture.heads if architecture.head_norm == "projection" else None,
        )

    def _norm_weight(self, name: str) -> torch.Tensor:
        weight = self._tensors[name].to(self._placement.device, torch.float32, copy=True)
        return weight + 1 if self._architecture.unit_offset else weight
