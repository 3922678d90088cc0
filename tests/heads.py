"""Tiny EAGLE heads in every layout on disk, for the targets of tests/checkpoints.py."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

SIZE = 32
"""The hidden size of the targets."""
LAYERS = 6
"""Layers of the targets: states 2, 3 and 3 are read by default."""
LAYOUTS = ("official", "pickled", "SpecForge", "speculators", "DeepSpec")
_SHAPE = {
    "hidden_size": SIZE,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "max_position_embeddings": 2048,
    "num_hidden_layers": 1,
}

Tensors = dict[str, torch.Tensor]


def kept_ids(vocab: int) -> torch.Tensor:
    """The target's ids that a head can propose: rising, with gaps."""
    return torch.tensor([token for token in range(vocab) if token % 3])


def random_tensors(vocab: int, *, states: int = 3, q_norm: bool = False, seed: int = 0) -> Tensors:
    """A random head over `kept_ids`. No norm is neutral."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * (1.5 / shape[-1] ** 0.5)

    ids = kept_ids(vocab)
    heads = {"q": 32, "k": 16, "v": 16}
    tensors = {
        "fc.weight": draw(SIZE, states * SIZE),
        **{f"layers.0.self_attn.{name}_proj.weight": draw(rows, 2 * SIZE) for name, rows in heads.items()},
        "layers.0.self_attn.o_proj.weight": draw(SIZE, 32),
        "layers.0.mlp.gate_proj.weight": draw(48, SIZE),
        "layers.0.mlp.up_proj.weight": draw(48, SIZE),
        "layers.0.mlp.down_proj.weight": draw(SIZE, 48),
        "lm_head.weight": 3 * draw(len(ids), SIZE),
        "d2t": ids - torch.arange(len(ids)),
        "t2d": torch.isin(torch.arange(vocab), ids),
    }
    norms = ["layers.0.hidden_norm", "layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"]
    tensors |= {f"{name}.weight": 1 + 0.5 * torch.randn(SIZE, generator=generator) for name in norms}
    if q_norm:
        tensors |= {f"layers.0.self_attn.{name}_norm.weight": 1 + draw(8) for name in "qk"}
    return tensors


def write_head(folder: Path, layout: str, tensors: Mapping[str, torch.Tensor], **config: Any) -> Path:
    """Write `tensors`, named as speculators names them, in a layout. `config` adds to config.json or replaces keys."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = len(tensors["lm_head.weight"]) if "lm_head.weight" in tensors else None
    made: dict[str, Any] = _SHAPE | {"model_type": "llama", "draft_vocab_size": vocabulary}
    renamed = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if layout in ("official", "pickled", "SpecForge"):
        renamed = {name.replace("layers.0.", "midlayer."): tensor for name, tensor in renamed.items()}
    match layout:
        case "official" | "pickled":
            made["architectures"] = ["LlamaForCausalLM"]
        case "SpecForge":
            made["architectures"] = ["LlamaForCausalLMEagle3"]
            made["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": [1, 2, 2], "use_aux_hidden_state": True}
        case "speculators":
            made = {
                "architectures": ["Eagle3Speculator"],
                "speculators_model_type": "eagle3",
                "speculators_config": {"algorithm": "eagle3"},
                "transformer_layer_config": _SHAPE | {"model_type": "llama"},
                "draft_vocab_size": vocabulary,
                "eagle_aux_hidden_state_layer_ids": [2, 3, 3],
            }
        case "DeepSpec":
            made |= {"architectures": ["Qwen3Eagle3Model"], "model_type": "qwen3", "target_layer_ids": [1, 2, 2]}
    (folder / "config.json").write_text(json.dumps(made | config))
    if layout == "pickled":
        torch.save(renamed, folder / "pytorch_model.bin")
    else:
        save_file(renamed, folder / "model.safetensors")
    return folder
