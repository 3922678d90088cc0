"""Tiny models with random weights of every family that the lean decoder runs, saved by transformers."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.progress import follow
from specgen.core.types import ModelRef, Quant
from specgen.nn.device import Placement
from specgen.nn.lean.load import load_decoder, read_checkpoint_architecture
from specgen.nn.lean.model import LeanModel

VOCAB = 97
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 8.0, "original_max_position_embeddings": 64}
GEMMA3_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 700.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}

MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama, tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama, biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 6},
    "llama, one key head": {"model_type": "llama", "head_dim": 32, "num_key_value_heads": 1},
    "llama, llama3 rope": {"model_type": "llama", "rope_parameters": LLAMA3},
    "llama, linear rope": {"model_type": "llama", "rope_parameters": {"rope_type": "linear", "factor": 4.0}},
    "mistral": {"model_type": "mistral", "sliding_window": 50},
    "mistral, no window": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2"},
    "qwen2, windows": {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2},
    "qwen2, yarn rope": {"model_type": "qwen2", "rope_parameters": YARN},
    "qwen2, yarn rope with mscale": {
        "model_type": "qwen2",
        "rope_parameters": YARN | {"mscale": 1.5, "mscale_all_dim": 0.5, "truncate": False, "beta_fast": 8.0},
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "qwen3, biases": {"model_type": "qwen3", "head_dim": 16, "attention_bias": True},
    "smollm3": {"model_type": "smollm3", "no_rope_layer_interval": 2},
    "smollm3, windows": {
        "model_type": "smollm3",
        "no_rope_layers": [1, 0, 0, 1],
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
    "phi3, partial rope": {
        "model_type": "phi3",
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
    },
    "gemma2": {"model_type": "gemma2", "head_dim": 16, "sliding_window": 40, "query_pre_attn_scalar": 20},
    "gemma3": {
        "model_type": "gemma3_text",
        "head_dim": 16,
        "sliding_window": 40,
        "sliding_window_pattern": 3,
        "query_pre_attn_scalar": 20,
        "final_logit_softcapping": 20.0,
        "rope_parameters": GEMMA3_ROPES,
    },
}


def save(folder: Path, *, dtype: torch.dtype = torch.float32, shard: str = "1GB", **config: Any) -> Path:
    """Save a model of this config with transformers. No weight, norm or bias keeps its neutral value."""
    kind = config.pop("model_type")
    settings = AutoConfig.for_model(kind, **(SIZES | config))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.add_(torch.randn_like(weight), alpha=0.3)
            else:
                weight.copy_(torch.randn_like(weight) * (1.0 if weight.dim() == 1 else weight.shape[1] ** -0.5))
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    return folder


def load(
    folder: Path, dtype: torch.dtype = torch.float32, context_length: int = 1024, quant: Quant = Quant.NONE
) -> LeanModel:
    checkpoint = Checkpoint(ModelRef(str(folder)), folder)
    architecture = read_checkpoint_architecture(checkpoint)
    assert not isinstance(architecture, str), architecture
    placement = Placement(torch.device("cpu"), dtype, quant)
    return follow(load_decoder(checkpoint, architecture, placement, context_length), lambda _: None)


@torch.inference_mode()
def reference(folder: Path, ids: list[int]) -> torch.Tensor:
    """The logits of transformers in float32 [ids, vocab]."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    logits: torch.Tensor = model(torch.tensor([ids])).logits[0]
    return logits
