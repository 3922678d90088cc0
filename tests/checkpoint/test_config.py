"""Impossible values in config.json and generation_config.json."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from specgen.checkpoint.checkpoint import check_backend
from specgen.core.errors import BadFile, UnsupportedModel
from tests.hub.pulling import small
from tests.hub_server import write_model


def change(folder: Path, name: str = "config.json", **values: Any) -> Path:
    file = folder / name
    config = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(config | values))
    return folder


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("num_hidden_layers", 0, "is 0, not a whole number from 1 to 2000"),
        ("num_hidden_layers", 1_000_000_000, "is 1000000000, not a whole number from 1 to 2000"),
        ("num_attention_heads", -1, "is -1, not a whole number"),
        ("num_key_value_heads", 0, "is 0, not a whole number"),
        ("hidden_size", "64", "is '64', not a whole number"),
        ("vocab_size", 1e9, "is 1000000000.0, not a whole number"),
        ("vocab_size", True, "is True, not a whole number"),
        ("max_position_embeddings", {"a": "b" * 99}, "is {'a': 'bbb"),
        ("architectures", "LlamaForCausalLM", "is 'LlamaForCausalLM', not a list"),
        ("rope_parameters", {"rope_theta": -3}, "rope_parameters.rope_theta is -3, not a number above 0"),
        ("rope_scaling", {"rope_type": "linear", "factor": 0}, "rope_scaling.factor is 0, not a number above 0"),
        (
            "rope_parameters",
            {"full_attention": {"rope_theta": "x"}},
            "rope_parameters.full_attention.rope_theta is 'x', not a number above 0",
        ),
        ("architectures", [1], "is [1], not a list with only texts"),
        ("model_type", ["llama"], "is ['llama'], not text"),
        ("quantization_config", "gptq", "is 'gptq', not an object"),
        ("text_config", [], "is [], not an object"),
        ("text_config", {"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ("rms_norm_eps", 0, "is 0, not a number above 0"),
        ("query_pre_attn_scalar", float("nan"), "is nan, not a number above 0"),
        ("eos_token_id", "2", "is '2', not a whole number or a list"),
        ("eos_token_id", [1, None], "is [1, None], not a list with only whole numbers"),
    ],
)
def test_an_impossible_value_names_file_and_key(tmp_path: Path, key: str, value: Any, expected: str) -> None:
    checkpoint = small(str(change(write_model(tmp_path / "m"), **{key: value})))
    with pytest.raises(BadFile) as caught:
        _ = checkpoint.config
    assert caught.value.message.startswith(f"{tmp_path}/m/config.json: ")
    assert f"{key} {expected}" in caught.value.message or expected in caught.value.message
    assert caught.value.hint == "correct the file, or download the model again"


def test_generation_config_is_checked_too(tmp_path: Path) -> None:
    folder = change(write_model(tmp_path / "m"), "generation_config.json", eos_token_id={})
    with pytest.raises(BadFile, match=r"generation_config.json: eos_token_id is {}, not a whole number or a list"):
        _ = small(str(folder)).generation_config


def test_a_config_that_never_ends_is_not_read(tmp_path: Path) -> None:
    checkpoint = small(str(write_model(tmp_path / "m")))
    file = tmp_path / "m" / "config.json"
    for make in (lambda: file.symlink_to("/dev/zero"), lambda: os.mkfifo(file)):
        file.unlink()
        make()
        with pytest.raises(BadFile, match=r"cannot read .*config.json: not a regular file"):
            _ = checkpoint.config
    file.unlink()
    file.write_text("[" * 100_000)
    with pytest.raises(BadFile, match=r"cannot read .*config.json: it is not JSON: nested too deeply"):
        _ = checkpoint.config


def test_a_fifo_is_not_a_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.gguf")
    with pytest.raises(BadFile, match=r"is neither a folder nor a regular file"):
        small(str(tmp_path / "m.gguf"))


@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_an_mlx_folder_is_called_so(tmp_path: Path, key: str) -> None:
    folder = change(write_model(tmp_path / "m"), **{key: {"group_size": 64, "bits": 4}})
    with pytest.raises(UnsupportedModel, match=r"m is quantized for MLX.*; choose the original model, or a .gguf file"):
        check_backend(small(str(folder)))
