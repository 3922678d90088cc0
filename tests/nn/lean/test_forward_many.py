"""Several contexts in one pass: the logits of each are the same bits as alone, and no context disturbs another."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from specgen.core.tokens import Tokens
from specgen.core.types import Quant
from specgen.nn.lean.caching import Part
from specgen.nn.lean.context_store import ContextStore
from specgen.nn.lean.model import LeanModel
from tests.nn.lean.checkpoints import MODELS, VOCAB, load, save

pytestmark = pytest.mark.usefixtures("one_thread", "shelf")


def ids(seed: int, count: int) -> list[int]:
    return random.Random(seed).choices(range(VOCAB), k=count)


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"), **MODELS[request.param])


@pytest.fixture(params=["float32", "bfloat16", "quantized"])
def opening(request: pytest.FixtureRequest, folder: Path) -> Callable[[], Any]:
    """Loads the model anew, with torch or with compiled kernels."""
    if request.param == "quantized":
        return lambda: load(folder, quant=Quant.INT8)
    return lambda: load(folder, getattr(torch, request.param))


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_joining_and_leaving_gives_the_bits_of_each_alone(opening: Callable[[], Any], seed: int) -> None:
    """Contexts grow, are rolled back, leave and begin; some share a beginning with another."""
    dice = random.Random(seed)
    model, alone = opening(), opening()
    model.hold(dice.choice([1, 3, 5]))
    model.keep_contexts(ContextStore(dice.choice([0, 1 << 30])))
    beginning = ids(7, 100)
    contexts: list[Tokens] = []
    for round_ in range(12):
        while len(contexts) < dice.randint(1, 5):
            contexts.append(
                Tokens(beginning[: dice.choice([0, 60, 100])] + ids(100 * seed + round_, dice.randint(1, 90)))
            )
        calls = []
        for context in dice.sample(contexts, dice.randint(1, len(contexts))):
            drafted = ids(dice.randrange(10**6), dice.randint(0, 5))
            calls.append((context + drafted, dice.randint(1, 1 + len(drafted))))
        for (tokens, last), rows in zip(calls, model.forward_many(calls), strict=True):
            assert torch.equal(rows, alone.forward(Tokens(tokens.ids()), last))
        contexts = [context.grow(ids(dice.randrange(10**6), dice.randint(1, 5))) for context in contexts]
        if dice.random() < 0.4:
            del contexts[dice.randrange(len(contexts))]


def fed_rows(model: LeanModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every pass from now on."""
    rows: list[int] = []
    compute = model._compute

    def count(parts: Sequence[Part]) -> object:
        rows.append(sum(len(part.ids) for part in parts))
        return compute(parts)

    monkeypatch.setattr(model, "_compute", count)
    return rows


def test_the_rows_of_all_calls_are_one_pass(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(folder)
    model.hold(4)
    contexts = [Tokens(ids(seed, 20)) for seed in range(4)]
    model.forward_many([(context, 1) for context in contexts])
    rows = fed_rows(model, monkeypatch)
    for _ in range(3):
        contexts = [context.grow([1, 2]) for context in contexts]
        model.forward_many([(context + (3,), 3) for context in contexts])  # noqa: RUF005  Tokens, not a list
    assert rows == [12, 12, 12], "each call feeds what is new: two tokens and a drafted one"


def test_a_shared_beginning_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(folder)
    model.hold(3)
    beginning = ids(1, 150)
    first = Tokens([*beginning, 5])
    model.forward_many([(first, 1)])
    rows = fed_rows(model, monkeypatch)
    others = [Tokens([*beginning, token]) for token in (6, 7)]
    assert [model.cached(other) for other in others] == [150, 150]
    model.forward_many([(first.grow([1]), 1), *((other, 1) for other in others)])
    assert rows == [3]


def test_tokens_can_be_read_before_they_are_scored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(folder)
    tokens = Tokens(ids(1, 200))
    expected = load(folder).forward(Tokens(tokens.ids()), 1)
    assert model.forward_many([(tokens.prefix(120), 0)])[0].shape == (0, VOCAB)
    assert model.cached(tokens) == 120
    rows = fed_rows(model, monkeypatch)
    assert torch.equal(model.forward(tokens, 1), expected)
    assert sum(rows) == 80


def test_a_failure_drops_every_context(folder: Path) -> None:
    model = load(folder)
    model.hold(2)
    tokens = Tokens(ids(1, 50))
    model.forward(tokens, 1)
    with pytest.raises(IndexError):
        model.forward_many([(tokens.grow([1]), 1), (Tokens([VOCAB]), 1)])
    assert model.cached(tokens) == 0
    assert torch.equal(model.forward(tokens, 1), load(folder).forward(Tokens(tokens.ids()), 1))


def test_fewer_contexts_are_kept_when_asked(folder: Path) -> None:
    model = load(folder)
    contexts = [Tokens(ids(seed, 50)) for seed in range(3)]
    assert model.hold(3) == 3
    model.forward_many([(context, 1) for context in contexts])
    model.hold(1)
    assert [model.cached(context) for context in contexts] == [0, 0, 50]


def test_a_listener_hears_the_states_of_every_context(opening: Callable[[], Any]) -> None:
    """As if each were alone, although the rows that are scored come last in a pass."""
    model, alone = opening(), opening()
    heard: dict[int, torch.Tensor] = {}
    expected: dict[int, torch.Tensor] = {}
    model.tap([1], lambda tokens, _, states: heard.__setitem__(tokens.ids()[0], states[0].clone()))
    alone.tap([1], lambda tokens, _, states: expected.__setitem__(tokens.ids()[0], states[0].clone()))
    model.hold(2)
    contexts = [Tokens([first, 3, 4, 5, 6, 7]) for first in (1, 2)]
    model.forward_many([(context, 2) for context in contexts])
    for context in contexts:
        alone.forward(context, 2)
    assert heard.keys() == expected.keys() == {1, 2}
    for first, states in heard.items():
        assert torch.equal(states, expected[first])
