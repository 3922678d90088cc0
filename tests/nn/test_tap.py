"""The tapped states of every runner are transformers' `hidden_states`, however the tokens were fed."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.progress import follow
from specgen.core.tokens import Tokens
from specgen.core.types import ModelRef
from specgen.nn.device import Placement
from specgen.nn.interface import UNNORMED, Runner
from specgen.nn.lean import caching, static
from specgen.nn.lean.graphs import Capture, Step
from specgen.nn.lean.load import load_decoder, read_checkpoint_architecture
from specgen.nn.transformers.model import TransformersModel
from tests.checkpoints import ARCHITECTURES, Checkpoints, make_model
from tests.fakes import VOCAB

LEAN = ("llama", "qwen2", "qwen3", "mistral", "gemma3", "phi3")
TRANSFORMERS = (*ARCHITECTURES,)
REJECTED = (5, 6, 7, 8)
IDS = random.Random(3).choices(range(2, VOCAB), k=300)

pytestmark = pytest.mark.usefixtures("one_thread")


class Rows:
    """A listener that keeps the last report of every position."""

    def __init__(self, layers: Sequence[int]) -> None:
        self._layers = layers
        self._of: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
        self.calls: list[tuple[int, int]] = []

    def __call__(self, tokens: Tokens, start: int, states: Sequence[torch.Tensor]) -> None:
        self.calls.append((start, len(tokens)))
        for layer, rows in zip(self._layers, states, strict=True):
            assert len(rows) == len(tokens) - start
            self._of[layer][start:] = [row.clone() for row in rows]

    def of(self, layer: int) -> torch.Tensor:
        return torch.stack(self._of[layer])


def hidden_states(model: Any, ids: Sequence[int]) -> dict[int, torch.Tensor]:
    """transformers' states of `ids`, and the input of the final norm, each [rows, hidden_size]."""
    seen: list[torch.Tensor] = []
    decoder = model.get_decoder()
    norm = next(
        getattr(decoder, name) for name in ("norm", "ln_f", "norm_f", "final_layernorm") if hasattr(decoder, name)
    )
    handle = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    with torch.inference_mode():
        states = model(input_ids=torch.tensor([list(ids)]), use_cache=False, output_hidden_states=True).hidden_states
    handle.remove()
    return {layer: each[0] for layer, each in enumerate(states)} | {UNNORMED: seen[0]}


def check(runner: Runner, model: Any) -> None:
    """A prompt in several passes, rounds of several widths with rejected tokens, and a shorter context."""
    count = model.config.num_hidden_layers
    layers = [count, UNNORMED, *range(count)]
    listener = Rows(layers)
    runner.tap(layers, listener)
    context = Tokens(IDS[:70])
    runner.forward(context, 1)
    for end in (71, 75, 83):
        if runner.can_verify:
            runner.forward(context + REJECTED, 4)
        context = Tokens(IDS[:end])
        runner.forward(context, 1)
    runner.forward(Tokens(IDS[:40]), 1)
    runner.forward(Tokens(IDS[:90]), 2 if runner.can_verify else 1)
    expected = hidden_states(model, IDS[:90])
    for layer in layers:
        torch.testing.assert_close(listener.of(layer), expected[layer], atol=2e-4, rtol=2e-4)
    told = len(listener.calls)
    runner.tap((), None)
    runner.forward(Tokens(IDS[:95]), 1)
    assert len(listener.calls) == told


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("models"))


def uncaptured(step: Step) -> Step:
    return step


def lean(folder: Path, capture: Capture | None = None) -> Runner:
    checkpoint = Checkpoint(ModelRef(str(folder)), folder)
    architecture = read_checkpoint_architecture(checkpoint)
    assert not isinstance(architecture, str)
    placement = Placement(torch.device("cpu"), torch.float32)
    return follow(
        load_decoder(checkpoint, architecture, placement, 256, (lambda: capture) if capture else None), lambda _: None
    )


@pytest.mark.parametrize("architecture", LEAN)
def test_the_lean_decoder_tells_transformers_states(
    checkpoints: Checkpoints, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "CHUNK", 32)
    folder = checkpoints.target(architecture)
    check(lean(folder), AutoModelForCausalLM.from_pretrained(folder))


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_passes_of_static_shape_tell_the_same_states(
    checkpoints: Checkpoints, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static, "CHUNK", 32)
    folder = checkpoints.target(architecture)
    check(lean(folder, uncaptured), AutoModelForCausalLM.from_pretrained(folder))


def test_a_pass_that_was_captured_before_the_tap_is_captured_again(checkpoints: Checkpoints) -> None:
    def graph(step: Step) -> Step:
        """Like a CUDA graph: it returns as many results as when it was captured."""
        count = len(step())
        return lambda: step()[:count]

    runner = lean(checkpoints.target("llama"), graph)
    runner.forward(Tokens(IDS[:5]), 1)
    listener = Rows([1])
    runner.tap([1], listener)
    runner.forward(Tokens(IDS[:8]), 1)
    assert listener.calls in ([(4, 5), (5, 8)], [(5, 8)])


@pytest.mark.parametrize("architecture", TRANSFORMERS)
def test_the_transformers_runner_tells_transformers_states(architecture: str) -> None:
    model = make_model(ARCHITECTURES[architecture]())
    check(TransformersModel(model), model)


@pytest.mark.parametrize("capture", [None, uncaptured])
def test_nobody_listens_at_first_and_wrong_layers_are_refused(
    checkpoints: Checkpoints, capture: Capture | None
) -> None:
    runner = lean(checkpoints.target("llama"), capture)
    for layer in (3, -2):
        with pytest.raises(IndexError, match=f"state {layer} of a model with 2 layers"):
            runner.tap([layer], lambda *_: None)
    runner.forward(Tokens(IDS[:20]), 1)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_a_head_borrows_the_embedding_the_norm_and_the_output_head(checkpoints: Checkpoints, architecture: str) -> None:
    folder = checkpoints.target(architecture)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor(IDS[:3])
    for runner in (lean(folder), lean(folder, uncaptured), TransformersModel(model)):
        shared = runner.shared
        listener = Rows([0, UNNORMED])
        runner.tap([0, UNNORMED], listener)
        logits = runner.forward(Tokens(IDS[:3]), 3)
        with torch.inference_mode():
            torch.testing.assert_close(shared.embed(ids), listener.of(0), atol=1e-5, rtol=1e-5)
            scores = shared.score(shared.norm(listener.of(UNNORMED)))
            torch.testing.assert_close(scores, logits, atol=1e-4, rtol=1e-4)
        assert shared.hidden_size == 32
        assert shared.layers == model.config.num_hidden_layers
