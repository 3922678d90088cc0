"""Convert the header of a .gguf file to the config.json of the same model on the hub.

Names and defaults follow llama.cpp (convert_hf_to_gguf.py, llama-model.cpp). A file with an unknown key is left to
transformers, because the key may change what the model computes.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from specgen.checkpoint.config import check_config
from specgen.checkpoint.gguf.header import Header, open_header

# Architecture of llama.cpp -> model_type of the hub. Mistral's models are written as llama.
_FAMILIES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "phi3": "phi3",
    "smollm3": "smollm3",
    "granite": "granite",
    "olmo2": "olmo2",
}
_KEYS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_MORE_KEYS: Mapping[str, dict[str, str]] = {
    "gemma2": {
        "attention.sliding_window": "sliding_window",
        "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping",
    },
    "gemma3": {
        "attention.sliding_window": "sliding_window",
        "final_logit_softcapping": "final_logit_softcapping",
        "rope.freq_base_swa": "rope_local_base_freq",
    },
    "granite": {
        "embedding_scale": "embedding_multiplier",
        "residual_scale": "residual_multiplier",
        "attention.scale": "attention_multiplier",
        "logit_scale": "logits_scaling",
    },
    "phi3": {"attention.sliding_window": "sliding_window"},
}
# Read below, or without effect.
_OTHER_KEYS = (
    "vocab_size",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
)
# Number of layers of the largest model of a family, whose attention scale differs. The header does not state the scale.
_LARGEST = {"gemma2": 46, "gemma3": 62}
ROPE_FACTORS = "rope_freqs.weight"


class _UnsupportedError(Exception):
    """Why a header cannot be converted."""


def read_config(path: Path) -> dict[str, Any] | str:
    """The config of the model in `path`, or the reason why it cannot be converted. Raises BadFile."""
    header = open_header(path)
    _check_counts(header, path)
    try:
        return _config(header)
    except _UnsupportedError as reason:
        return str(reason)


def _check_counts(header: Header, path: Path) -> None:
    """Raise BadFile for counts that no model has, for which transformers would allocate memory.

    Models without attention store heads of 0.
    """
    prefix = f"{header.values.get('general.architecture')}."
    names = {name: prefix + key for key, name in _KEYS.items()}
    counts = {name: header.values.get(key) for name, key in names.items()}
    known = {name: count for name, count in counts.items() if isinstance(count, int)}
    check_config({name: count for name, count in known.items() if count or name == "num_hidden_layers"}, path, names)


def _config(header: Header) -> dict[str, Any]:
    architecture = header.values.get("general.architecture")
    if architecture not in _FAMILIES:
        raise _UnsupportedError(f"the GGUF architecture {architecture!r}")
    given = _values_under(header, f"{architecture}.")
    keys = _KEYS | _MORE_KEYS.get(architecture, {})
    if unknown := sorted(given.keys() - keys - set(_OTHER_KEYS)):
        raise _UnsupportedError(f"{architecture}.{unknown[0]} in the GGUF header")
    config = {name: given[key] for key, name in keys.items() if key in given}
    heads, width = _positive(given, "attention.head_count"), _positive(given, "embedding_length")
    config.setdefault("num_key_value_heads", heads)
    config["head_dim"] = _positive(given, "attention.key_length", width // heads)
    if given.get("attention.value_length", config["head_dim"]) != config["head_dim"]:
        raise _UnsupportedError("values of another size than keys")
    if "token_embd.weight" not in header.tensor:
        raise _UnsupportedError("no tensor token_embd.weight")
    config |= {
        "model_type": _FAMILIES[architecture],
        "vocab_size": int(header.tensor["token_embd.weight"].shape[-1]),
        "tie_word_embeddings": "output.weight" not in header.tensor,
        "attention_bias": "blk.0.attn_q.bias" in header.tensor,
        "mlp_bias": "blk.0.ffn_up.bias" in header.tensor,
        "rope_parameters": _rope(header, given, config["head_dim"]),
    }
    return config | _family_values(architecture, config, given)


def _values_under(header: Header, prefix: str) -> dict[str, Any]:
    """The values whose names start with `prefix`, without the prefix."""
    lists = sorted(name for name in header.lengths if name.startswith(prefix))
    if lists:
        raise _UnsupportedError(f"{lists[0]} is a list")
    return {name.removeprefix(prefix): value for name, value in header.values.items() if name.startswith(prefix)}


def _positive(given: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _UnsupportedError(f"{key} {value!r}")
    return value


def _family_values(architecture: str, config: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values that only one family needs."""
    rope, turned = config["rope_parameters"], _positive(given, "rope.dimension_count", config["head_dim"])
    if turned != config["head_dim"] and architecture != "phi3":
        raise _UnsupportedError("rotary dimensions that are fewer than a head's")
    match architecture:
        case "gemma2" | "gemma3":
            largest = config.get("num_hidden_layers") == _LARGEST[architecture]
            scale = config["hidden_size"] // config["num_attention_heads"] if largest else config["head_dim"]
            ropes = {} if architecture == "gemma2" else {"rope_parameters": {"full_attention": rope}}
            window = config.get("sliding_window", 4096 if architecture == "gemma2" else None)
            return {"query_pre_attn_scalar": scale, "sliding_window": window} | ropes
        case "granite":
            if given.get("rope.scaling.finetuned", True) is not True:  # Granite 4 without positional encoding
                raise _UnsupportedError("a granite without positions")
            return {"attention_multiplier": config.get("attention_multiplier")}
        case "phi3":
            portion = turned / config["head_dim"]
            window = config.get("sliding_window") or None
            return {"rope_parameters": rope | {"partial_rotary_factor": portion}, "sliding_window": window}
    return {}


def _rope(header: Header, given: Mapping[str, Any], head_size: int) -> dict[str, Any]:
    """`rope_parameters`. Those of Llama 3.1 are recovered from the tensor of factors."""
    default = 1_000_000.0 if header.values["general.architecture"] == "gemma3" else 10_000.0
    theta = given.get("rope.freq_base", default)
    if not isinstance(theta, float) or not 0 < theta < math.inf:
        raise _UnsupportedError(f"rope.freq_base {theta!r}")
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    kind = given.get("rope.scaling.type", "none")
    factors = header.tensor.get(ROPE_FACTORS)
    if kind == "none":
        return rope if factors is None else _llama3(np.asarray(factors.data), theta, head_size)
    if kind not in ("linear", "yarn") or factors is not None:
        raise _UnsupportedError(f"the rope scaling {kind!r}")
    rope |= {"rope_type": kind, "factor": given.get("rope.scaling.factor")}
    if kind == "yarn" and "rope.scaling.original_context_length" in given:
        rope["original_max_position_embeddings"] = given["rope.scaling.original_context_length"]
    return rope


def _llama3(factors: npt.NDArray[Any], theta: float, size: int) -> dict[str, Any]:
    """Recover the Llama 3.1 parameters from `factors` [size / 2].

    The ramp between unscaled and fully scaled pairs always ends at 1 and 4. A pair on the ramp gives the original
    context length.
    """
    if factors.dtype != np.float32 or factors.shape != (size // 2,) or not np.all(factors >= 1):
        raise _UnsupportedError("rope factors of an unknown kind")
    turns = theta ** -(np.arange(0, size, 2) / size) / (2 * math.pi)
    factor = round(float(factors.max()), 3)
    ramp = (1 / factors - 1 / factor) / (1 - 1 / factor) if factor > 1 else factors
    between = np.flatnonzero((ramp > 1e-4) & (ramp < 1 - 1e-4))
    original = round(float((1 + 3 * ramp[between[0]]) / turns[between[0]])) if between.size else 0
    kept = ((turns * original - 1) / 3).clip(0, 1)
    if not original or not np.allclose(1 / factors, (1 - kept) / factor + kept, rtol=1e-4):
        raise _UnsupportedError("rope factors of an unknown kind")
    return {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": original,
    }
