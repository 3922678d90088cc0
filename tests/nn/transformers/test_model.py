"""The cache is invisible: logits are those of a forward pass without a cache."""
# ruff: noqa: RUF005 - `+` branches a context, it concatenates no lists

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from specgen.core.tokens import Tokens
from specgen.nn.transformers.model import TransformersModel
from tests.checkpoints import ARCHITECTURES, RECURRENT, UNUSUAL, WINDOW, make_model
from tests.fakes import VOCAB


@pytest.fixture(scope="module")
def models() -> Any:
    """One model of each architecture, made at its first use."""
    torch.set_num_threads(1)
    made: dict[str, Any] = {}

    def model(architecture: str) -> Any:
        if architecture not in made:
            made[architecture] = make_model((ARCHITECTURES | UNUSUAL)[architecture]())
        return made[architecture]

    return model


def expected(model: Any, tokens: Tokens, last: int) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokens.ids()]), use_cache=False).logits[0, -last:].float()


def check(model: Any, runner: TransformersModel, tokens: Tokens, last: int) -> None:
    logits = runner.forward(tokens, last)
    assert logits.shape == (last, VOCAB)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, expected(model, tokens, last), atol=2e-3)


LOADABLE = [*ARCHITECTURES, *(name for name in UNUSUAL if name != "minimax")]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("architecture", LOADABLE)
def test_whatever_came_before_the_logits_are_those_of_the_context(models: Any, architecture: str, seed: int) -> None:
    """A walk over contexts that grow, branch, are cut back by a little or by more than a window, or are new."""
    model = models(architecture)
    runner = TransformersModel(model)
    draw = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [draw.randrange(VOCAB) for _ in range(count)]

    context = Tokens(ids(2 * WINDOW))
    for _ in range(14):
        move = draw.choice(["grow", "grow", "try", "try", "back", "far back", "again", "new"])
        if move == "grow":
            context = context.grow(ids(draw.randint(1, 5)))
        elif move == "back":
            context = context.prefix(max(2, len(context) - draw.randint(1, 4))).grow(ids(1))
        elif move == "far back":
            context = context.prefix(max(2, len(context) - draw.randint(WINDOW, 2 * WINDOW))).grow(ids(1))
        elif move == "new":
            context = Tokens(ids(draw.randint(2, 2 * WINDOW)))
        tried = context + ids(draw.randint(1, 5)) if move == "try" else context
        check(model, runner, tried, draw.randint(1, min(6, len(tried))))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_rows_of_a_context(models: Any, architecture: str) -> None:
    """`last` may be the whole context, also when all of it is cached."""
    model = models(architecture)
    runner = TransformersModel(model)
    tokens = Tokens(range(2, 12))
    check(model, runner, tokens, 10)
    check(model, runner, tokens, 10)
    check(model, runner, tokens.prefix(1), 1)


@pytest.mark.parametrize("architecture", ["mistral", "gemma3"])
def test_rolling_back_beyond_what_a_sliding_layer_kept(models: Any, architecture: str) -> None:
    """Its keys are gone, so the runner must start again."""
    model = models(architecture)
    runner = TransformersModel(model)
    context = Tokens(range(2, 2 + 3 * WINDOW))
    for end in range(2 * WINDOW, 3 * WINDOW):
        runner.forward(context.prefix(end), 1)
    for back in (1, 2, WINDOW - 1, WINDOW, 2 * WINDOW + 3):
        check(model, runner, context.prefix(len(context) - back).grow([99]), 1)
        check(model, runner, context, 2)


def fed_by(model: Any) -> list[int]:
    """The number of tokens of every call from now on."""
    fed: list[int] = []
    model.register_forward_pre_hook(lambda _, __, named: fed.append(named["input_ids"].shape[1]), with_kwargs=True)
    return fed


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name not in RECURRENT])
def test_a_round_feeds_only_what_the_cache_lacks(models: Any, architecture: str) -> None:
    model = models(architecture)
    runner = TransformersModel(model)
    fed = fed_by(model)
    context = Tokens(range(2, 42))
    runner.forward(context + [50, 51, 52], 4)
    context = context.grow([50, 60])  # one accepted, one corrected
    runner.forward(context + [70, 71, 72], 4)
    context = context.grow([70, 71, 72, 80])  # all accepted and the bonus token
    runner.forward(context + [90], 2)
    assert fed == [43, 4, 2]


def test_a_recurrent_model_feeds_a_rejected_round_again(models: Any) -> None:
    """The state before the proposal is kept, so only accepted tokens are fed again, not the prompt."""
    model = models("hybrid")
    runner = TransformersModel(model)
    fed = fed_by(model)
    context = Tokens(range(2, 42))
    runner.forward(context + [50, 51, 52], 4)
    context = context.grow([50, 60])
    check_from = len(fed)
    runner.forward(context + [70, 71, 72], 4)
    assert sum(fed[check_from:]) == 2 + 4  # the last token of the prompt and the accepted one; then four rows
    context = context.grow([70, 71, 72, 80])
    check(model, runner, context, 1)


def test_a_kept_state_survives_what_is_fed_onto_it(models: Any) -> None:
    """A state that is restored twice must not contain the tokens fed in between."""
    model = models("hybrid")
    runner = TransformersModel(model)
    context = Tokens(range(2, 42))
    runner.forward(context + [50, 51, 52], 4)
    for token in (60, 61, 62):
        check(model, runner, context.grow([token, token]), 1)


def test_a_long_prompt_is_fed_in_chunks(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specgen.nn.transformers.model._CHUNK", 10)
    model = models("gemma3")
    runner = TransformersModel(model)
    fed = fed_by(model)
    context = Tokens([2 + i % 300 for i in range(45)])
    runner.forward(context, 3)
    assert fed == [10, 10, 10, 10, 5]
    assert all(layer.keys.shape[-2] <= WINDOW + 5 for layer in runner._cache.states.layers if layer.is_sliding), (
        "sliding layers must let go of what they no longer need"
    )
    check(model, runner, context.grow([5]), 2)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "hybrid", "mamba"])
def test_nothing_is_kept_of_a_call_that_fails(models: Any, architecture: str) -> None:
    """Half of the layers have cached the tokens, the other half has not."""
    model = models(architecture)
    runner = TransformersModel(model)
    context = Tokens(range(2, 42))
    runner.forward(context, 1)

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    hook = model.base_model.layers[-1].register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        runner.forward(context.grow([7, 8]), 1)
    hook.remove()
    check(model, runner, context.grow([7, 8]), 2)


class Stateful(torch.nn.Module):
    """A model with its state outside of the cache: the sum over all tokens so far."""

    def __init__(self) -> None:
        super().__init__()
        self.config = ARCHITECTURES["mamba"]()
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.table = torch.randn((VOCAB, VOCAB), generator=torch.Generator().manual_seed(0))
        self.state = torch.zeros(VOCAB)

    def get_output_embeddings(self) -> None:
        return None

    def forward(self, input_ids: Any, position_ids: Any, past_key_values: Any = None, use_cache: bool = True) -> Any:
        start = self.state if position_ids[0, 0] else torch.zeros(VOCAB)
        logits = start + self.table[input_ids[0]].cumsum(0)
        self.state = logits[-1]
        return SimpleNamespace(logits=logits[None])


def test_a_state_that_no_cache_can_restore_is_found_out() -> None:
    assert not TransformersModel(Stateful()).can_verify


def test_what_a_model_says_of_itself(models: Any) -> None:
    for architecture in LOADABLE:
        runner = TransformersModel(models(architecture))
        assert runner.vocab_size == VOCAB
        recurrent = ("mamba", "falcon-mamba", "recurrent-gemma")
        assert (runner.context_length is None) == (architecture in ("mamba", "falcon-mamba")), architecture
        assert runner.can_verify == (architecture not in recurrent), architecture
