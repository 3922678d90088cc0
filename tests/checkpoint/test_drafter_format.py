"""What a folder with a head holds, for every layout and for published configs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from specgen.checkpoint.checkpoint import Checkpoint, find
from specgen.checkpoint.drafter_format import is_head, read_format
from specgen.core.errors import BadFile, DraftMismatch, SpecgenError, UnsupportedModel
from specgen.core.progress import follow
from specgen.core.types import ModelRef
from tests.heads import LAYOUTS, SIZE, random_tensors, write_head

VOCAB = 60


def found(folder: Path) -> Checkpoint:
    return follow(find(ModelRef(str(folder)), offline=True), lambda _: None)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_known_by_its_tensors(tmp_path: Path, layout: str) -> None:
    checkpoint = found(write_head(tmp_path, layout, random_tensors(VOCAB)))
    assert is_head(checkpoint)
    head = read_format(checkpoint)
    assert head.layout == ("official" if layout == "pickled" else layout)
    assert (head.kind, head.vocabulary, head.mapped) == ("eagle3", 40, True)
    assert head.layers_read(6, SIZE) == (2, 3, 3)
    assert not head.head_norm
    assert not head.own_embedding


# Published configs: what they say, the layers of their target, and the states that they mean. In order: the heads of
# yuhuili and AngelSlim, of RedHatAI, a list at the top level, SpecForge before and after it numbered states, a head for
# Qwen3-235B, nvidia's for gpt-oss, which reads the last state before the final norm, deepseek-ai's for Qwen3.
EAGLE, NESTED = "eagle_aux_hidden_state_layer_ids", "eagle_config"
PUBLISHED: list[tuple[dict[str, Any], int, tuple[int, ...]]] = [
    ({}, 32, (2, 16, 29)),
    ({}, 36, (2, 18, 33)),
    ({"speculators_model_type": "eagle3", EAGLE: [2, 18, 33]}, 36, (2, 18, 33)),
    ({"speculators_model_type": "eagle3", EAGLE: [1, 18, 33]}, 36, (1, 18, 33)),
    ({EAGLE: [1, 17, 32]}, 36, (1, 17, 32)),
    ({NESTED: {EAGLE: [1, 17, 32], "use_aux_hidden_state": True}}, 36, (2, 18, 33)),
    ({NESTED: {EAGLE: [2, 18, 33], "use_aux_hidden_state": True}}, 36, (2, 18, 33)),
    ({NESTED: {EAGLE: [1, 46, 90]}}, 94, (2, 47, 91)),
    ({NESTED: {EAGLE: [24, 30, 36]}}, 36, (24, 30, 36)),
    ({"target_layer_ids": [1, 9, 17, 25, 33]}, 36, (2, 10, 18, 26, 34)),
]


@pytest.mark.parametrize(("config", "layers", "states"), PUBLISHED)
def test_the_layers_of_published_configs(
    tmp_path: Path, config: dict[str, Any], layers: int, states: tuple[int, ...]
) -> None:
    head = write_head(tmp_path, "official", random_tensors(VOCAB, states=len(states)), **config)
    assert read_format(found(head)).layers_read(layers, SIZE) == states


def test_a_head_of_another_target_is_refused(tmp_path: Path) -> None:
    head = read_format(found(write_head(tmp_path, "official", random_tensors(VOCAB), **{EAGLE: [2, 18, 33]})))
    with pytest.raises(DraftMismatch, match="states of 96 numbers, which 40 of the target do not divide"):
        head.layers_read(36, 40)
    with pytest.raises(DraftMismatch, match="reads 6 states of 16 numbers, and its config names 3 layers"):
        head.layers_read(36, 16)
    with pytest.raises(DraftMismatch, match="reads layer 33 and the target has 32: it is for another target"):
        head.layers_read(32, SIZE)


def test_shapes_win_over_the_config(tmp_path: Path) -> None:
    tensors = random_tensors(VOCAB, q_norm=True) | {"embed_tokens.weight": torch.zeros(VOCAB, SIZE)}
    head = read_format(found(write_head(tmp_path, "official", tensors, draft_vocab_size=7)))
    assert (head.vocabulary, head.head_norm, head.own_embedding) == (40, True, True)


def test_switches_of_eagle_3_1(tmp_path: Path) -> None:
    plain = random_tensors(VOCAB)
    one = read_format(found(write_head(tmp_path / "one", "speculators", plain | {"input_norm.weight": torch.ones(96)})))
    assert (one.input_norm, one.norm_before_residual, one.norm_output) == ("one", False, False)
    norms = {f"fc_norm.{i}.weight": torch.ones(SIZE) for i in range(3)}
    each = write_head(tmp_path / "each", "speculators", plain | norms, norm_before_residual=True, norm_output=True)
    read = read_format(found(each))
    assert (read.input_norm, read.norm_before_residual, read.norm_output) == ("each", True, True)


def test_what_specgen_does_not_run_is_named(tmp_path: Path) -> None:
    plain = random_tensors(VOCAB)
    for change, words in (
        ({"mask_hidden": torch.zeros(1, 1, SIZE)}, "P-EAGLE"),
        ({"layers.1.mlp.down_proj.weight": torch.zeros(SIZE, 48)}, "several layers"),
        ({"layers.0.self_attn.q_proj.weight": torch.zeros(32, 40)}, r"q_proj.weight \[32, 40\] do not fit"),
    ):
        folder = write_head(tmp_path / words[:6], "DeepSpec", plain | change)
        with pytest.raises(UnsupportedModel, match=words):
            read_format(found(folder))
    without = {name: tensor for name, tensor in plain.items() if "o_proj" not in name}
    with pytest.raises(UnsupportedModel, match=r"it has no layers.0.self_attn.o_proj.weight"):
        read_format(found(write_head(tmp_path / "without", "DeepSpec", without)))
    with pytest.raises(UnsupportedModel, match="names the layers 'all'"):
        read_format(found(write_head(tmp_path / "layers", "official", plain, **{EAGLE: "all"})))


def test_pickles_are_read_for_heads_alone_and_run_no_code(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    torch.save({"lm_head.weight": torch.zeros(3, 3)}, model / "pytorch_model.bin")
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 1}))
    with pytest.raises(UnsupportedModel, match="pickle weights only"):
        found(model)
    head = write_head(tmp_path / "head", "pickled", random_tensors(VOCAB))
    for content in ({"fc.weight": Path("/")}, [torch.zeros(2)], {"fc.weight": 3}):
        torch.save(content, head / "pytorch_model.bin")
        with pytest.raises(BadFile, match="not a file with tensors alone"):
            found(head)
    (head / "pytorch_model.bin").write_bytes(b"no zip")
    with pytest.raises(BadFile, match="not a file with tensors alone"):
        found(head)


def test_a_head_is_known_before_its_weights_are_there(tmp_path: Path) -> None:
    folder = write_head(tmp_path, "official", random_tensors(VOCAB))
    (folder / "model.safetensors").unlink()
    assert is_head(Checkpoint(ModelRef("org/head"), folder))
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2}))
    assert not is_head(Checkpoint(ModelRef("org/head"), folder))
    with pytest.raises(SpecgenError):
        found(folder)
