"""Tiny models of every family that the lean decoder runs, with random weights, and what transformers makes of them."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

_SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 64}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 6},
    "llama head_dim": {"model_type": "llama", "head_dim": 32, "num_key_value_heads": 1},
    "llama llama3": {"model_type": "llama", "rope_parameters": _LLAMA3},
    "llama linear": {"model_type": "llama", "rope_parameters": {"rope_type": "linear", "factor": 4.0}},
    "qwen2 yarn": {"model_type": "qwen2", "rope_parameters": _YARN},
    "qwen2 yarn mscale": {
        "model_type": "qwen2",
        "rope_parameters": _YARN | {"mscale": 1.5, "mscale_all_dim": 0.5, "truncate": False, "beta_fast": 8},
    },
    "mistral": {"model_type": "mistral", "sliding_window": 50},
    "mistral full": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2"},
    "qwen2 sliding": {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "qwen3 biases": {"model_type": "qwen3", "head_dim": 16, "attention_bias": True},
    "smollm3": {"model_type": "smollm3", "no_rope_layer_interval": 2},
    "smollm3 sliding": {
        "model_type": "smollm3",
        "no_rope_layer_interval": 2,
        "use_sliding_window": True,
        "sliding_window": 70,
    },
    "granite": {
        "model_type": "granite",
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.4,
        "logits_scaling": 2.0,
    },
    "olmo2": {"model_type": "olmo2"},
    "phi3": {"model_type": "phi3", "sliding_window": 65},
    "phi3 partial": {
        "model_type": "phi3",
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
    },
    "gemma2": {"model_type": "gemma2", "head_dim": 16, "sliding_window": 40, "query_pre_attn_scalar": 20},
    "gemma3": {
        "model_type": "gemma3_text",
        "head_dim": 16,
        "sliding_window": 40,
        "sliding_window_pattern": 3,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 700.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    },
}


def save(folder: Path, *, dtype: torch.dtype = torch.float32, seed: int = 0, **config: Any) -> Path:
    """Write a model of this config, with weights far from their initial values, as transformers writes it."""
    kind = config.pop("model_type")
    settings = AutoConfig.for_model(kind, **(_SIZES | config))
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.add_(torch.randn_like(weight) * 0.3)
            else:
                weight.copy_(torch.randn_like(weight) * (1.0 if weight.dim() == 1 else 2.0 / weight.shape[1] ** 0.5))
    model.to(dtype).save_pretrained(folder)
    return folder


class Reference:
    """What transformers computes for a saved model, in float32."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def logits(self, ids: list[int]) -> torch.Tensor:
        return self.model(torch.tensor([ids])).logits[0]

    @torch.inference_mode()
    def hidden(self, ids: list[int]) -> list[torch.Tensor]:
        return [state[0] for state in self.model(torch.tensor([ids]), output_hidden_states=True).hidden_states]
