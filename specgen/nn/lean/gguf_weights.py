"""The tensors of a .gguf file with the names, row order and values of the same model on the hub.

This undoes the changes of llama.cpp's convert_hf_to_gguf.py. Dequantized values equal those of transformers to the bit.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, ReaderTensor
from gguf.quants import dequantize

from specgen.checkpoint.gguf.config import read_config
from specgen.checkpoint.gguf.header import open_header
from specgen.nn.kernels.gguf_blocks import NATIVE, GgufRows
from specgen.nn.kernels.grouped import FloatRows
from specgen.nn.kernels.panels import Packable
from specgen.nn.lean.architecture import Architecture, read_architecture
from specgen.nn.lean.weights import Tensors, check_fit, find_fault, tensor_shapes

_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_LAYER_OF = {
    "gemma2": {"ffn_norm": "pre_feedforward_layernorm"},
    "gemma3": {"ffn_norm": "pre_feedforward_layernorm"},
    "phi3": {"ffn_up": "mlp.gate_up_proj"},
}
# llama.cpp rotates neighbours and the hub's code rotates halves, so llama.cpp reorders rows of queries and keys.
_PERMUTED = ("llama", "granite", "smollm3")
# Norms stored as w, whereas the hub stores w - 1.
_RAISED = ("gemma2", "gemma3")
# Part of the config.
_CONFIG = ("rope_freqs.weight",)

_PLAIN = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}
_ROUNDED = {
    GGMLQuantizationType[name]
    for name in ("Q2_K", "Q3_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
}
_QUANTIZED = NATIVE.keys() | _ROUNDED
# Numbers that are dequantized at a time, so that temporary arrays stay in the processor's cache.
_NUMBERS = 1 << 18


class GgufTensors(Tensors):
    """Tensors by their name on the hub. Quantized ones are converted to float32, others are views of the file."""

    def __init__(self, path: Path) -> None:
        """Open a file that `read_config` can convert. Raises BadFile."""
        header = open_header(path)
        self._architecture: str = header.values["general.architecture"]
        heads: int = header.values[f"{self._architecture}.attention.head_count"]
        kv_heads: int = header.values.get(f"{self._architecture}.attention.head_count_kv", heads)
        self._heads = {"attn_q": heads, "attn_k": kv_heads}
        self._tensor_of = {self._hub_name(name): tensor for name, tensor in header.tensor.items()}
        # Tied weights are read twice, and the embedding stays in memory anyway.
        self._read: WeakValueDictionary[str, torch.Tensor] = WeakValueDictionary()

    def __contains__(self, name: str) -> bool:
        return name in self._tensor_of

    def names(self) -> Iterable[str]:
        return self._tensor_of

    def stored_name(self, name: str) -> str:
        return self._tensor_of[name].name

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self._read.get(name)
        if tensor is None:
            self._read[name] = tensor = self._restored(self._tensor_of[name])
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        return _shape(self._tensor_of[name])

    def dtype(self, name: str) -> str:
        """The dtype in the terms of safetensors, for an unreadable tensor in those of GGUF."""
        kind = self._tensor_of[name].tensor_type
        return "F32" if kind in _QUANTIZED else kind.name

    def values(self, name: str, rows: Sequence[int]) -> torch.Tensor:
        tensor = self._tensor_of[name]
        if tensor.tensor_type in _PLAIN:
            return super().values(name, rows)
        return torch.from_numpy(dequantize(tensor.data[np.array(rows)], tensor.tensor_type))

    def floats(self, name: str, order: torch.Tensor | None) -> FloatRows:
        tensor = self._tensor_of[name]
        return super().floats(name, order) if tensor.tensor_type in _PLAIN else self._blocks(tensor, order)

    def packable(self, name: str, order: torch.Tensor | None) -> Packable:
        tensor = self._tensor_of[name]
        return super().packable(name, order) if tensor.tensor_type in _PLAIN else self._blocks(tensor, order)

    def _blocks(self, tensor: ReaderTensor, order: torch.Tensor | None) -> GgufRows:
        stored = self._reordered(tensor, torch.arange(len(tensor.data)))
        rows = stored if order is None else stored[order]
        whole = torch.equal(rows, torch.arange(len(tensor.data)))
        return GgufRows(tensor.data, tensor.tensor_type, None if whole else rows.numpy())

    def rounded(self) -> list[str]:
        """The types of this file's tensors that have no exact form in panels, and are rounded to 8 bits."""
        return sorted({kind.name for tensor in self._tensor_of.values() if (kind := tensor.tensor_type) in _ROUNDED})

    def find_unread(self, architecture: Architecture) -> str | None:
        """The name in the file of a tensor that this architecture does not have."""
        known = {*tensor_shapes(architecture), "lm_head.weight", *_CONFIG}
        return next((tensor.name for name, tensor in self._tensor_of.items() if name not in known), None)

    def _hub_name(self, name: str) -> str:
        """The name on the hub, or the name itself if the hub has none."""
        stem, _, kind = name.rpartition(".")
        if stem in _NAMES:
            return f"{_NAMES[stem]}.{kind}"
        block, _, leaf = stem.rpartition(".")
        leaves = _LAYER | _LAYER_OF.get(self._architecture, {})
        return f"model.layers.{block.removeprefix('blk.')}.{leaves[leaf]}.{kind}" if leaf in leaves else name

    def _restored(self, tensor: ReaderTensor) -> torch.Tensor:
        weight = self._reordered(tensor, _numbers(tensor))
        if self._architecture in _RAISED and tensor.name.endswith("norm.weight"):
            return weight.float() - 1
        return weight

    def _reordered(self, tensor: ReaderTensor, rows: torch.Tensor) -> torch.Tensor:
        """`rows` of a tensor, or their numbers, in the order of the hub."""
        leaf = tensor.name.split(".")[-2]
        if self._architecture not in _PERMUTED or leaf not in self._heads:
            return rows
        return rows.view(self._heads[leaf], -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def read_gguf_architecture(path: Path) -> Architecture | str:
    """The architecture of the model in `path`, or the reason why the lean decoder cannot run it. Raises BadFile."""
    config = read_config(path)
    architecture = config if isinstance(config, str) else read_architecture(config)
    if isinstance(architecture, str):
        return architecture
    tensors = GgufTensors(path)
    check_fit(architecture, tensors, path)
    unread = tensors.find_unread(architecture)
    return find_fault(architecture, tensors) or (f"the tensor {unread}" if unread else architecture)


def _shape(tensor: ReaderTensor) -> tuple[int, ...]:
    return tuple(int(size) for size in reversed(tensor.shape))


def _numbers(tensor: ReaderTensor) -> torch.Tensor:
    """The values of a tensor: a view of the file, or dequantized to float32."""
    if tensor.tensor_type in _PLAIN:
        return torch.from_numpy(tensor.data).view(_PLAIN[tensor.tensor_type])
    whole = torch.empty(_shape(tensor))
    numbers, stored = whole.view(-1).numpy(), tensor.data.reshape(-1)
    size, stored_size = GGML_QUANT_SIZES[tensor.tensor_type]
    blocks = _NUMBERS // size
    for first in range(0, len(numbers) // size, blocks):
        part = stored[first * stored_size : (first + blocks) * stored_size]
        numbers[first * size : (first + blocks) * size] = dequantize(part, tensor.tensor_type)
    return whole
