"""A head is loaded as its file means it."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.errors import BadFile, DraftMismatch, UnsupportedModel
from specgen.core.tokens import Tokens
from specgen.core.types import ModelRef, Quant
from specgen.nn.device import Placement
from specgen.nn.heads.load import load_head, tapped_states
from specgen.nn.heads.reader import HeadReader
from specgen.nn.interface import UNNORMED
from specgen.nn.kernels import support
from specgen.nn.transformers.model import TransformersModel
from tests.checkpoints import Checkpoints
from tests.fakes import VOCAB
from tests.heads import LAYERS, SIZE, kept_ids, random_tensors, write_head

FLOAT = Placement(torch.device("cpu"), torch.float32)
IDS = random.Random(4).choices(range(VOCAB), k=30)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> TransformersModel:
    folder = Checkpoints(tmp_path_factory.mktemp("models")).make("six", "llama", num_hidden_layers=LAYERS)
    return TransformersModel(AutoModelForCausalLM.from_pretrained(folder).eval())


def scores(folder: Path, target: TransformersModel, placement: Placement = FLOAT, ids: list[int] = IDS) -> torch.Tensor:
    """float32 [vocabulary of the head] after `ids`."""
    found = Checkpoint(ModelRef(str(folder)), folder)
    shared = target.shared
    reader = HeadReader(load_head(found, shared, VOCAB, placement), target, tapped_states(found, shared))
    target.forward(Tokens([0]), 1)
    target.forward(Tokens(ids[:-1]), 1)
    row = reader.scores(reader.begin(Tokens(ids), len(ids))[0])[0]
    return row[~row.isneginf()]


def test_every_switch_changes_the_scores(target: TransformersModel, tmp_path: Path) -> None:
    """Each switch is read, and none has the effect of another."""
    plain = random_tensors(VOCAB)
    torch.manual_seed(0)
    each = {f"fc_norm.{i}.weight": torch.rand(SIZE) for i in range(3)}
    changes: dict[str, tuple[dict[str, torch.Tensor], dict[str, Any]]] = {
        "plain": ({}, {}),
        "residual": ({}, {"norm_before_residual": True}),
        "one": ({"input_norm.weight": torch.rand(3 * SIZE)}, {}),
        "each": (each, {}),
        "heads": ({f"layers.0.self_attn.{n}_norm.weight": torch.rand(8) for n in "qk"}, {}),
        "bias": (
            {"layers.0.self_attn.v_proj.bias": torch.rand(16)}
            | {f"layers.0.self_attn.{n}_proj.bias": torch.zeros(s) for n, s in (("q", 32), ("k", 16))},
            {},
        ),
        "embedding": ({"embed_tokens.weight": torch.randn(VOCAB, SIZE)}, {}),
        "rope": ({}, {"rope_theta": 50.0}),
    }
    found = {}
    for name, (tensors, config) in changes.items():
        folder = write_head(tmp_path / name, "official", plain | tensors, **config)
        found[name] = scores(folder, target)
    names = list(found)
    for i, first in enumerate(names):
        for second in names[:i]:
            assert float((found[first] - found[second]).abs().max()) > 0.01, (first, second)


def test_a_normed_output_is_fed_back_where_the_config_says_so(target: TransformersModel, tmp_path: Path) -> None:
    steps = []
    for normed in (False, True):
        folder = write_head(tmp_path / str(normed), "speculators", random_tensors(VOCAB), norm_output=normed)
        found = Checkpoint(ModelRef(str(folder)), folder)
        head = load_head(found, target.shared, VOCAB, FLOAT)
        outputs = torch.randn(2, SIZE, generator=torch.Generator().manual_seed(1))
        steps.append(head.fed_back(outputs))
        expected = outputs / outputs.pow(2).mean(-1, keepdim=True).sqrt() * random_tensors(VOCAB)["norm.weight"]
        torch.testing.assert_close(steps[-1], expected if normed else outputs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("agreed", [True, False])
def test_ids_themselves_in_place_of_differences_are_understood(
    target: TransformersModel, tmp_path: Path, agreed: bool
) -> None:
    """`t2d` decides; without it, only one reading stays below the vocabulary."""
    tensors = random_tensors(VOCAB)
    if not agreed:
        del tensors["t2d"]
    expected = scores(write_head(tmp_path / "differences", "official", tensors), target)
    tensors["d2t"] = kept_ids(VOCAB)
    torch.testing.assert_close(scores(write_head(tmp_path / "ids", "official", tensors), target), expected)
    tensors["d2t"] = kept_ids(VOCAB).flip(0)
    with pytest.raises(BadFile, match="d2t maps to no 213 tokens of the target's 320"):
        scores(write_head(tmp_path / "falling", "official", tensors), target)


def test_a_head_with_the_whole_vocabulary_needs_no_map(target: TransformersModel, tmp_path: Path) -> None:
    tensors = random_tensors(VOCAB)
    del tensors["d2t"], tensors["t2d"]
    rows = tensors["lm_head.weight"]
    whole = torch.zeros(VOCAB, SIZE)
    whole[kept_ids(VOCAB)] = rows
    mapped = scores(write_head(tmp_path / "mapped", "official", random_tensors(VOCAB)), target)
    tensors["lm_head.weight"] = whole
    assert torch.equal(scores(write_head(tmp_path / "whole", "official", tensors), target)[kept_ids(VOCAB)], mapped)
    tensors["lm_head.weight"] = torch.zeros(VOCAB + 1, SIZE)
    with pytest.raises(DraftMismatch, match="scores 321 tokens and the target has 320"):
        scores(write_head(tmp_path / "more", "official", tensors), target)


def test_the_last_layer_means_the_state_before_the_final_norm(target: TransformersModel, tmp_path: Path) -> None:
    tensors = random_tensors(VOCAB)
    folder = write_head(tmp_path, "official", tensors, eagle_aux_hidden_state_layer_ids=[4, 5, 6])
    assert tapped_states(Checkpoint(ModelRef(str(folder)), folder), target.shared) == (4, 5, UNNORMED)


def test_an_eagle_1_head_reads_the_normed_state_and_borrows_the_output_head(
    target: TransformersModel, tmp_path: Path
) -> None:
    """One pair: attention sees itself alone, so that its result is the value."""
    old = {
        name: tensor for name, tensor in random_tensors(VOCAB, states=2).items() if name.startswith(("fc", "layers"))
    }
    for name in ("hidden_norm", "input_layernorm"):
        del old[f"layers.0.{name}.weight"]
    for name in "qkv":
        old[f"layers.0.self_attn.{name}_proj.weight"] = old[f"layers.0.self_attn.{name}_proj.weight"][:, :SIZE]
    old["fc.bias"] = torch.ones(SIZE)
    folder = write_head(tmp_path, "DeepSpec", old)
    model = target._model
    with torch.inference_mode():
        states = model(torch.tensor([IDS[:1]]), output_hidden_states=True).hidden_states
        embedded = model.get_input_embeddings()(torch.tensor(IDS[1:2]))
        x = torch.cat([embedded, states[LAYERS][0]], -1) @ old["fc.weight"].T + 1
        part = {name.removeprefix("layers.0."): tensor for name, tensor in old.items()}
        value = (x @ part["self_attn.v_proj.weight"].T).view(2, 8).repeat_interleave(2, 0).view(1, 32)
        attended = x + value @ part["self_attn.o_proj.weight"].T
        normed = attended / (attended.pow(2).mean() + 1e-6).sqrt() * part["post_attention_layernorm.weight"]
        gate = torch.nn.functional.silu(normed @ part["mlp.gate_proj.weight"].T)
        out = attended + (gate * (normed @ part["mlp.up_proj.weight"].T)) @ part["mlp.down_proj.weight"].T
        expected = model.get_output_embeddings()(out)[0]
    torch.testing.assert_close(scores(folder, target, ids=IDS[:2]), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.skipif(support.find_fault() is not None, reason="no kernels run here")
def test_matrices_of_8_bits_score_nearly_alike(target: TransformersModel, tmp_path: Path) -> None:
    folder = write_head(tmp_path, "official", random_tensors(VOCAB))
    exact = scores(folder, target)
    rounded = scores(folder, target, Placement(torch.device("cpu"), torch.float32, Quant.INT8))
    assert not torch.equal(rounded, exact)
    assert float((rounded - exact).norm() / exact.norm()) < 0.05


def test_what_a_layer_cannot_do_is_named(target: TransformersModel, tmp_path: Path) -> None:
    tensors = random_tensors(VOCAB)
    for change, words in (
        ({"layer_types": ["sliding_attention"]}, "its attention has a window"),
        ({"hidden_act": "relu"}, "the activation 'relu'"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "the rope type 'dynamic'"),
    ):
        folder = write_head(tmp_path / words[4:12].strip(), "official", tensors, **change)
        with pytest.raises(UnsupportedModel, match=words):
            scores(folder, target)
    del tensors["norm.weight"]
    with pytest.raises(UnsupportedModel, match=r"has no tensor norm.weight"):
        scores(write_head(tmp_path / "without", "official", tensors), target)
