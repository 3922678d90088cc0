"""The lean decoder reads a config as transformers does, or leaves the model to transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.types import ModelRef
from specgen.nn.lean.architecture import Architecture, read_architecture
from specgen.nn.lean.families import FAMILIES
from specgen.nn.lean.load import read_checkpoint_architecture
from tests.nn.lean.checkpoints import GEMMA3_ROPES, LLAMA3, MODELS, SIZES, YARN, save

# The keys of every config. The default number of key-value heads of every family divides the number of heads.
REQUIRED = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 8,
    "num_attention_heads": 32,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}


def config(kind: str, **changes: Any) -> dict[str, Any]:
    return {"model_type": kind, "architectures": [FAMILIES[kind].architecture], **REQUIRED, **changes}


def architecture_of(values: dict[str, Any]) -> Architecture:
    architecture = read_architecture(values)
    assert isinstance(architecture, Architecture), architecture
    return architecture


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_missing_key_has_the_familys_own_default(kind: str) -> None:
    spelled_out = AutoConfig.for_model(kind, **REQUIRED).to_dict() | {"architectures": None}
    assert architecture_of(config(kind)) == architecture_of(spelled_out)


@pytest.mark.parametrize("name", MODELS)
def test_the_older_way_to_write_positions_says_the_same(name: str) -> None:
    values = dict(SIZES | MODELS[name])
    today = architecture_of(
        AutoConfig.for_model(values.pop("model_type"), **values).to_dict() | {"architectures": None}
    )
    older = dict(SIZES | MODELS[name])
    if older["model_type"] == "gemma3_text":
        older["rope_scaling"] = GEMMA3_ROPES["full_attention"]
        older |= {"rope_theta": 700.0, "rope_local_base_freq": 100.0}
        del older["rope_parameters"]
    elif rope := dict(older.pop("rope_parameters", {})):
        older |= {key: rope.pop(key) for key in ("rope_theta", "partial_rotary_factor") if key in rope}
        rope["type"] = rope.pop("rope_type")
        older["rope_scaling"] = rope
    assert architecture_of(older) == today


def test_explicit_layer_types_are_heeded() -> None:
    types = ["full_attention", "sliding_attention"] * 4
    windows = [layer.window for layer in architecture_of(config("gemma2", layer_types=types, sliding_window=7)).layers]
    assert windows == [None, 7] * 4


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "model type"),
        ({"model_type": ["llama"]}, "model type"),
        (config("llama") | {"model_type": "mixtral"}, "mixtral"),
        (config("llama") | {"model_type": "gemma3"}, "gemma3"),
        (config("llama", architectures=["LlamaForSequenceClassification"]), "LlamaForSequenceClassification"),
        (config("llama", quantization_config={"bits": 4}), "quantization_config"),
        (config("llama", per_layer_config={"0": {}}), "per_layer_config"),
        (config("llama", hidden_act="relu"), "relu"),
        (config("llama", hidden_size=None), "hidden_size"),
        (config("llama", rms_norm_eps="1e-5"), "rms_norm_eps"),
        (config("llama", attention_bias=1), "attention_bias"),
        (config("llama", num_key_value_heads=5), "32 heads"),
        (config("llama", num_key_value_heads=True), "num_key_value_heads"),
        (config("llama", head_dim=7), "7 rotary dimensions"),
        (config("llama", layer_types=["full_attention"] * 8), "layer_types"),
        (config("llama", sliding_window=128), "sliding_window"),
        (config("llama", partial_rotary_factor=0.5), "partial_rotary_factor"),
        (config("llama", rope_parameters=[10_000]), "rope_parameters"),
        (config("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0}), "dynamic"),
        (config("llama", rope_parameters={"rope_type": "longrope"}), "longrope"),
        (config("llama", rope_scaling={"type": "linear"}), "factor"),
        (config("llama", rope_parameters={"rope_theta": 100.0, "mrope_section": [1, 2]}), "mrope_section"),
        (config("llama", rope_parameters=LLAMA3 | {"high_freq_factor": 0.5}), "low_freq_factor"),
        (config("llama", rope_parameters=YARN, original_max_position_embeddings=9), "original_max_position_embeddings"),
        (config("phi3", rope_parameters={"rope_type": "yarn", "factor": 2.0}), "yarn"),
        (config("qwen2", layer_types=["sliding_attention"] * 8), "use_sliding_window"),
        (config("qwen2", layer_types=["full_attention"] * 7), "layer_types"),
        (config("qwen2", layer_types=["linear_attention"] * 8), "layer_types"),
        (config("smollm3", no_rope_layers=[1]), "no_rope_layers"),
        (config("gemma2", sliding_window=None), "sliding_window"),
        (config("gemma2", use_bidirectional_attention=True), "use_bidirectional_attention"),
        (config("gemma3_text", attn_logit_softcapping=50.0), "attn_logit_softcapping"),
        (config("gemma3_text", rope_parameters={"rope_theta": 1.0}), "rope_parameters"),
    ],
)
def test_what_is_not_understood_is_left_to_transformers(values: dict[str, Any], reason: str) -> None:
    answer = read_architecture(values)
    assert isinstance(answer, str)
    assert reason in answer


@pytest.mark.parametrize("kind", FAMILIES)
def test_no_value_of_any_key_is_more_than_a_reason(kind: str) -> None:
    values = AutoConfig.for_model(kind, **REQUIRED).to_dict() | {"architectures": None}
    assert isinstance(read_architecture(values), Architecture)
    keys = [*values, "rope_scaling", "rope_theta", "sliding_window_pattern", "rope_local_base_freq"]
    for key in keys:
        for odd in (None, True, -1, 0, 0.5, float("nan"), "x", [], [[]], [{}] * 8, {}, {"full_attention": 3}):
            assert isinstance(read_architecture(values | {"layer_types": None, key: odd}), Architecture | str)


@pytest.mark.parametrize("change", ["missing", "dtype", "no head"])
def test_weights_that_do_not_fit_are_left_to_transformers(tmp_path: Path, change: str) -> None:
    save(tmp_path, **MODELS["qwen2"])
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    name = "lm_head.weight" if change == "no head" else "model.layers.3.self_attn.k_proj.bias"
    if change == "dtype":
        tensors[name] = tensors[name].to(torch.int8)
    else:
        del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    answer = read_checkpoint_architecture(Checkpoint(ModelRef("model"), tmp_path))
    assert isinstance(answer, str)
    assert name in answer
