"""The model families of the lean decoder: the part of their modelling code that config.json leaves out.

A new family whose layers differ in nothing else is one entry in FAMILIES.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from specgen.nn.lean.read_config import flag, whole_number


@dataclass(frozen=True, slots=True)
class Norms:
    """The names of a layer's norm tensors by place, None for a place without a norm."""

    before_attention: str | None = "input_layernorm"
    after_attention: str | None = None
    before_mlp: str | None = "post_attention_layernorm"
    after_mlp: str | None = None


_SANDWICH = Norms(
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"
)


@dataclass(frozen=True, slots=True)
class Family:
    """One `model_type` of transformers.

    `reads` holds the optional keys that its code reads, with their defaults. Other optional keys have no effect.
    `slides` tells from a layer's index whether its attention has a window, for configs without `layer_types`. None: the
    family has no such list, and a window holds for every layer.
    """

    architecture: str
    reads: Mapping[str, Any]
    norms: Norms = Norms()
    head_norm: Literal["none", "head", "projection"] = "none"
    qkv_bias: bool = False
    fused: bool = False
    unit_offset: bool = False
    rope_types: tuple[str, ...] = ("default", "linear", "llama3", "yarn")
    slides: Callable[[int, Mapping[str, Any]], bool] | None = None


_COMMON = {
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "rope_theta": 10_000.0,
}
_BIASES = {"attention_bias": False, "mlp_bias": False}
_QWEN = {
    "num_key_value_heads": 32,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
_GEMMA = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "layer_types": None,
}


def _last_layers_slide(index: int, options: Mapping[str, Any]) -> bool:
    return flag(options, "use_sliding_window") and index >= whole_number(options, "max_window_layers")


def _layers_without_rope_slide(index: int, options: Mapping[str, Any]) -> bool:
    windowed = flag(options, "use_sliding_window") and options["sliding_window"] is not None
    return windowed and not options["no_rope_layers"][index]


FAMILIES: Mapping[str, Family] = {
    "llama": Family("LlamaForCausalLM", _COMMON | _BIASES),
    "mistral": Family("MistralForCausalLM", _COMMON | {"num_key_value_heads": 8, "sliding_window": 4096}),
    "qwen2": Family("Qwen2ForCausalLM", _COMMON | _QWEN, qkv_bias=True, slides=_last_layers_slide),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        _COMMON | _QWEN | {"head_dim": 128, "attention_bias": False},
        head_norm="head",
        slides=_last_layers_slide,
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        _COMMON
        | _BIASES
        | {
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
            "rope_theta": 2_000_000.0,
            "use_sliding_window": False,
            "sliding_window": None,
            "layer_types": None,
            "no_rope_layers": None,
            "no_rope_layer_interval": 4,
        },
        slides=_layers_without_rope_slide,
    ),
    "granite": Family(
        "GraniteForCausalLM",
        _COMMON
        | _BIASES
        | {
            "embedding_multiplier": 1.0,
            "attention_multiplier": 1.0,
            "residual_multiplier": 1.0,
            "logits_scaling": 1.0,
        },
    ),
    "olmo2": Family(
        "Olmo2ForCausalLM",
        _COMMON | {"attention_bias": False},
        norms=Norms(None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
        head_norm="projection",
    ),
    "phi3": Family(
        "Phi3ForCausalLM",
        _COMMON | {"sliding_window": None, "partial_rotary_factor": 1.0},
        fused=True,
        rope_types=("default",),
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        _COMMON | _GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        norms=_SANDWICH,
        unit_offset=True,
        slides=lambda index, _: index % 2 == 0,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        _COMMON
        | _GEMMA
        | {
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "sliding_window_pattern": 6,
            "final_logit_softcapping": None,
        },
        norms=_SANDWICH,
        head_norm="head",
        unit_offset=True,
        rope_types=("default", "linear"),
        slides=lambda index, options: (index + 1) % whole_number(options, "sliding_window_pattern") != 0,
    ),
}
