"""Weights that do not fit their config: one line that names the tensor, whichever runner would load them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from specgen.core.errors import SpecgenError, UnsupportedModel
from specgen.core.events import Notice
from specgen.core.progress import follow
from specgen.core.types import EngineOptions, ModelRef
from specgen.session.loading import open_pair
from specgen.session.session import memory_errors
from tests.checkpoints import Checkpoints
from tests.gguf_files import write_gguf


def change(folder: Path, tensors: dict[str, torch.Tensor] | None = None, **config: Any) -> Path:
    weights = load_file(folder / "model.safetensors") | (tensors or {})
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | config))
    return folder


def load(folder: Path) -> object:
    with memory_errors():
        return follow(open_pair(ModelRef.parse(str(folder)), "none", EngineOptions()), lambda _: None)


@pytest.mark.parametrize(
    ("architecture", "tensor"),
    [("llama", "model.embed_tokens.weight"), ("gpt2", "wte.weight"), ("mixtral", "model.embed_tokens.weight")],
)
def test_a_vocabulary_larger_than_the_embedding_names_the_tensor(
    tmp_path: Path, architecture: str, tensor: str
) -> None:
    folder = Checkpoints(tmp_path).target(architecture)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    change(folder, vocab_size=size + 4)
    with pytest.raises(UnsupportedModel) as caught:
        load(folder)
    assert f"{folder}: the tensor " in caught.value.message
    assert f"has the shape [{size}, 32], its config asks for [{size + 4}, 32]" in caught.value.message


def test_reversed_shapes_name_the_tensor(tmp_path: Path) -> None:
    folder = Checkpoints(tmp_path).target("llama")
    name = "model.layers.0.mlp.up_proj.weight"
    change(folder, {name: load_file(folder / "model.safetensors")[name].T.contiguous()})
    with pytest.raises(UnsupportedModel, match=r"has the shape \[32, 64\], its config asks for \[64, 32\]"):
        load(folder)


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("llama", "model.layers.1.self_attn.q_proj.bias"),
        ("llama", "model.layers.0.mlp.down_proj.weight_scale"),
        ("llama", "model.layers.0.self_attn.q_norm.weight"),
        ("llama", "model.layers.7.input_layernorm.weight"),
        ("llama", "lm_head.bias"),
        ("mixtral", "model.layers.1.self_attn.q_proj.bias"),
        ("mixtral", "model.layers.7.input_layernorm.weight"),
        ("gpt2", "transformer.h.0.attn.c_attn.weight_scale"),
        ("gpt2", "transformer.h.9.ln_1.weight"),
    ],
)
def test_a_tensor_that_no_layer_reads_is_refused(tmp_path: Path, architecture: str, name: str) -> None:
    folder = change(Checkpoints(tmp_path).target(architecture), {name: torch.ones(4)})
    with pytest.raises(UnsupportedModel, match=f"the tensor {name} is not part of this architecture"):
        load(folder)


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("llama", "model.layers.0.self_attn.k_scale"),
        ("llama", "v_head.summary.weight"),
        ("gpt2", "transformer.h.0.attn.masked_bias"),
    ],
)
def test_tensors_that_never_take_part_are_ignored(tmp_path: Path, architecture: str, name: str) -> None:
    load(change(Checkpoints(tmp_path).target(architecture), {name: torch.ones(4)}))


DAMAGE = (-1, 0, 1.5, "x", [], {}, True, 1_000_000_000, None)


def end(folder: Path) -> str:
    """The error that loading ends in, "" without one."""
    try:
        load(folder)
    except SpecgenError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_damaged_values_end_in_one_line(tmp_path: Path, architecture: str) -> None:
    folder = Checkpoints(tmp_path).target(architecture)
    config = json.loads((folder / "config.json").read_text())
    for key in config:
        for value in DAMAGE:
            (folder / "config.json").write_text(json.dumps(config | {key: value}))
            assert "\n" not in end(folder), f"{key} {value!r}"


def test_an_unknown_pre_tokenizer_is_said(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", Checkpoints(tmp_path).target("llama"), tokenizer=True).path
    path.write_bytes(path.read_bytes().replace(b"gpt-2", b"gpt-9"))
    events: list[object] = []
    follow(open_pair(ModelRef.parse(str(path)), "none", EngineOptions()), events.append)
    said = [event.text for event in events if isinstance(event, Notice)]
    assert [text for text in said if "m.gguf names the unknown pre-tokenizer 'gpt-9'" in text]


def test_an_unknown_activation_is_named(tmp_path: Path) -> None:
    folder = change(Checkpoints(tmp_path).target("llama"), hidden_act="zz")
    with pytest.raises(UnsupportedModel, match="cannot be loaded: unknown value 'zz'"):
        load(folder)
