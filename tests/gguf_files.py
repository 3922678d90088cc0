"""GGUF files made of tiny checkpoints, as llama.cpp's convert_hf_to_gguf.py makes them."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer as Backend

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.types import ModelRef
from tests.fakes import CHAT_TEMPLATE, END, VOCAB, backend

F32 = gguf.GGMLQuantizationType.F32
_ARCHITECTURES = {"gemma3_text": gguf.MODEL_ARCH.GEMMA3}
_PERMUTED = ("llama", "granite", "smollm3")


def write_gguf(
    path: Path, folder: Path, kind: gguf.GGMLQuantizationType = F32, tokenizer: bool = False, **more: Any
) -> Checkpoint:
    """Write the checkpoint in `folder` as one file, with matrices of `kind`. `more` overrides header values."""
    config = json.loads((folder / "config.json").read_text())
    names = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    arch = _ARCHITECTURES.get(config["model_type"]) or names[config["model_type"]]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    for key, value in (_header(config) | {name.replace("__", "."): value for name, value in more.items()}).items():
        if value is not None:
            _add(writer, f"{writer.arch}.{key}", value)
    if tokenizer:
        add_byte_level(writer, backend())
    else:  # some configs of transformers have a padding token of their own, beyond so few
        writer.add_eos_token_id(2)
        writer.add_pad_token_id(0)
    name_map = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    for name, tensor in load_file(folder / "model.safetensors").items():
        stem, _, suffix = name.rpartition(".")
        data = _changed(name, tensor.float(), config).numpy()
        fits = data.ndim == 2 and data.shape[1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
        stored = kind if fits else F32
        writer.add_tensor(f"{name_map.get_name(stem)}.{suffix}", gguf.quantize(data, stored), raw_dtype=stored)
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_factors(config, rope))
    return finish(writer, path)


def finish(writer: gguf.GGUFWriter, path: Path) -> Checkpoint:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Checkpoint(ModelRef(str(path)), path)


def add_byte_level(
    writer: gguf.GGUFWriter,
    tokenizer: Backend,
    pre: str = "gpt-2",
    template: str = CHAT_TEMPLATE,
    kinds: Mapping[int, int] | None = None,
) -> None:
    """Write a byte-level BPE whose first two tokens are special, as in fakes.py. `kinds`: id -> another type."""
    content = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(content["vocab"], key=content["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([(kinds or {}).get(index, 3 if index < 2 else 1) for index in range(VOCAB)])
    writer.add_token_merges([" ".join(merge) for merge in content["merges"]])
    writer.add_eos_token_id(tokens.index(END))
    writer.add_chat_template(template)


def _header(config: dict[str, Any]) -> dict[str, Any]:
    heads, kind = config["num_attention_heads"], config["model_type"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    rope = config["rope_parameters"]
    rope = rope.get("full_attention", rope)
    header = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "attention.key_length": size,
        "attention.value_length": size,
        "vocab_size": config["vocab_size"],
        "rope.dimension_count": int(size * rope.get("partial_rotary_factor", 1.0)),
        "rope.freq_base": float(rope["rope_theta"]),
        "attention.sliding_window": config.get("sliding_window") if kind in ("gemma2", "gemma3_text", "phi3") else None,
        "attn_logit_softcapping": config.get("attn_logit_softcapping"),
        "final_logit_softcapping": config.get("final_logit_softcapping"),
        "embedding_scale": config.get("embedding_multiplier"),
        "residual_scale": config.get("residual_multiplier"),
        "attention.scale": config.get("attention_multiplier"),
        "logit_scale": config.get("logits_scaling"),
    }
    if kind == "phi3":
        header |= {"attention.key_length": None, "attention.value_length": None}
    if rope["rope_type"] in ("linear", "yarn"):
        header |= {
            "rope.scaling.type": rope["rope_type"],
            "rope.scaling.factor": rope["factor"],
            "rope.scaling.original_context_length": rope.get("original_max_position_embeddings"),
        }
    return header


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)


def _changed(name: str, tensor: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
        if part in name and config["model_type"] in _PERMUTED:
            halves = tensor.view(config[heads], 2, -1, *tensor.shape[1:])
            return halves.transpose(1, 2).reshape(tensor.shape).contiguous()
    if "gemma" in config["model_type"] and name.endswith("norm.weight"):
        return tensor + 1
    return tensor


def _llama3_factors(config: dict[str, Any], rope: dict[str, Any]) -> np.ndarray:
    """The divisors of the rotary frequencies, as convert_hf_to_gguf.py computes them."""
    size, original = config["head_dim"], rope["original_max_position_embeddings"]
    low, high = original / rope["low_freq_factor"], original / rope["high_freq_factor"]
    factors = []
    for index in range(0, size, 2):
        length = 2 * math.pi * rope["rope_theta"] ** (index / size)
        smooth = (original / length - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
        ramp = 1 / ((1 - smooth) / rope["factor"] + smooth)
        factors.append(1 if length < high else rope["factor"] if length > low else ramp)
    return np.array(factors, dtype=np.float32)
