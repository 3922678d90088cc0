"""Tiny checkpoints with random weights, one an architecture, in the folder format of the hub.

The weights are drawn wide enough that logits differ by whole units: the greedy choice is then no matter of float
noise, and the text wanders instead of repeating its first token.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.fakes import CHAT_TEMPLATE, END, VOCAB, backend

SPOKEN = (2, 34)
"""The ids that the models prefer: few, so that n-grams come back, all of them ASCII, and no end token."""
WINDOW = 16
"""The width of every sliding window: shorter than any prompt of the tests."""
_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.4,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "pad_token_id": None,
    "eos_token_id": 0,
}
_EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4}
_MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}

ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**_COMMON),
    "qwen2": lambda: transformers.Qwen2Config(**_COMMON),
    "qwen3": lambda: transformers.Qwen3Config(**_COMMON),
    "mistral": lambda: transformers.MistralConfig(**_COMMON, sliding_window=WINDOW),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **_COMMON | {"num_hidden_layers": 3, "query_pre_attn_scalar": 8},
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=256,
        initializer_range=0.4,
        tie_word_embeddings=False,
        eos_token_id=0,
    ),
    "phi3": lambda: transformers.Phi3Config(**_COMMON),
    "mixtral": lambda: transformers.MixtralConfig(**_COMMON | _EXPERTS, sliding_window=None),
    "mamba": lambda: transformers.MambaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        state_size=8,
        num_hidden_layers=2,
        initializer_range=0.4,
        tie_word_embeddings=False,
        eos_token_id=0,
    ),
    "hybrid": lambda: transformers.GraniteMoeHybridConfig(
        **_COMMON | _EXPERTS | _MAMBA | {"num_hidden_layers": 3},
        shared_intermediate_size=32,
        layer_types=["mamba", "attention", "mamba"],
    ),
}
RECURRENT = ("mamba", "hybrid")
UNUSUAL: dict[str, Callable[[], Any]] = {
    # Counts positions from 0 in every call.
    "bamba": lambda: transformers.BambaConfig(**_COMMON | _MAMBA, attn_layer_indices=[1]),
    # Keeps its states in the module, where no cache can restore them.
    "recurrent-gemma": lambda: transformers.RecurrentGemmaConfig(
        **_COMMON | {"num_hidden_layers": 3}, lru_width=32, attention_window_size=WINDOW
    ),
    # Loses its state as Mamba does, but its random weights hardly show it.
    "falcon-mamba": lambda: transformers.FalconMambaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        state_size=8,
        num_hidden_layers=2,
        initializer_range=0.4,
        tie_word_embeddings=False,
        eos_token_id=0,
    ),
    # Keeps only convolution states.
    "lfm2": lambda: transformers.Lfm2Config(**_COMMON, layer_types=["conv", "full_attention"]),
    # Wants a cache class of its own.
    "minimax": lambda: transformers.MiniMaxConfig(
        **_COMMON | _EXPERTS, layer_types=["linear_attention", "full_attention"]
    ),
}
"""Models that break what the others keep to."""


def write_tokenizer(folder: Path, chat_template: str | None = CHAT_TEMPLATE) -> None:
    backend().save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    if chat_template is not None:
        config["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def make_model(config: Any, seed: int = 0) -> Any:
    """A model of `config` with weights that depend on `seed` alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        head[: SPOKEN[0]], head[SPOKEN[1] :] = 0.0, 0.0
    return model


def perturb(model: Any, amount: float, seed: int = 1) -> Any:
    """Add noise of `amount` times its own spread to every weight: a draft that agrees with `model` now and then."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            spread = weight.std() if weight.numel() > 1 else weight.abs()
            weight.add_(amount * spread * torch.randn(weight.shape, generator=generator))
    return model


class Checkpoints:
    """Checkpoints under one folder, each written at its first use."""

    def __init__(self, root: Path) -> None:
        # More threads than one only wait for each other on models of this size.
        torch.set_num_threads(1)
        self._root = root

    def target(self, architecture: str) -> Path:
        return self.make(architecture, architecture)

    def draft(self, architecture: str) -> Path:
        """A model that agrees with the target of the same architecture now and then."""
        return self.make(f"{architecture}-draft", architecture, noise=0.05)

    def make(
        self,
        name: str,
        architecture: str,
        *,
        noise: float = 0.0,
        generation: Mapping[str, Any] | None = None,
        chat_template: str | None = CHAT_TEMPLATE,
        **config: Any,
    ) -> Path:
        """The checkpoint `name`; `generation` adds to generation_config.json, `config` changes config.json."""
        folder = self._root / name
        if not folder.exists():
            made = (ARCHITECTURES | UNUSUAL)[architecture]()
            made.update(config)
            model = make_model(made)
            (perturb(model, noise) if noise else model).save_pretrained(folder)
            write_tokenizer(folder, chat_template)
            recommended = {"eos_token_id": 0, **(generation or {})}
            (folder / "generation_config.json").write_text(json.dumps(recommended))
        return folder


def reference(folder: Path, ids: Sequence[int], max_new_tokens: int, **options: Any) -> list[int]:
    """What transformers' own greedy `generate` continues `ids` with."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    made = model.generate(torch.tensor([list(ids)]), max_new_tokens=max_new_tokens, do_sample=False, **options)
    return [int(token) for token in made[0, len(ids) :]]
