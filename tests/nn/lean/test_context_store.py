"""Stored contexts are not fed again, and do not change the bits of the logits."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from specgen.core.tokens import Tokens
from specgen.nn.lean.caching import Part
from specgen.nn.lean.context_store import ContextStore
from specgen.nn.lean.model import LeanModel
from tests.nn.lean.checkpoints import MODELS, VOCAB, load, save

pytestmark = pytest.mark.usefixtures("one_thread")

PLENTY = 1 << 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("llama"), **MODELS["llama"])


@pytest.fixture
def model(folder: Path) -> LeanModel:
    return load(folder)


def ids(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(VOCAB), k=length)


def fed(model: LeanModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that collects the number of tokens of every pass."""
    counts: list[int] = []
    compute = model._compute

    def counting(parts: Sequence[Part]) -> object:
        counts.append(sum(len(part.ids) for part in parts))
        return compute(parts)

    monkeypatch.setattr(model, "_compute", counting)
    return counts


def test_two_conversations_in_turn_feed_only_what_is_new(model: LeanModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model.keep_contexts(ContextStore(PLENTY))
    counts = fed(model, monkeypatch)
    one, two = ids(1, 200), ids(2, 200)
    for grown in range(3):
        for context in (one, two):
            counts.clear()
            model.forward(Tokens(context + ids(3, 5 * grown)), 1)
            assert sum(counts) == (200 if grown == 0 else 5)


def test_without_it_they_are_fed_again(model: LeanModel, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = fed(model, monkeypatch)
    for seed in (1, 2, 1):
        counts.clear()
        model.forward(Tokens(ids(seed, 200)), 1)
        assert sum(counts) == 200


def test_questions_on_one_text_read_it_once(model: LeanModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model.keep_contexts(ContextStore(PLENTY))
    counts = fed(model, monkeypatch)
    text = ids(1, 300)
    for question in range(10):
        counts.clear()
        model.forward(Tokens(text + ids(10 + question, 90)), 1)
        # The first tokens of two questions may be the same by chance.
        assert sum(counts) == 390 if question == 0 else 80 <= sum(counts) <= 90
    assert not model._store._contexts, "one text is one context"


def test_what_two_share_is_copied_and_both_stay(model: LeanModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model.keep_contexts(ContextStore(PLENTY))
    counts = fed(model, monkeypatch)
    system = ids(1, 50)
    one, two = [*system, 1, *ids(2, 200)], [*system, 2, *ids(3, 200)]
    sums = []
    for context in (one, two, one, two):
        counts.clear()
        model.forward(Tokens([*context, 7]), 1)
        sums.append(sum(counts))
    assert sums == [252, 202, 1, 1]


def test_the_logits_are_the_same_to_the_bit(folder: Path, model: LeanModel) -> None:
    alone = load(folder)
    model.keep_contexts(ContextStore(PLENTY))
    dice = random.Random(5)
    contexts = [ids(0, 40) + ids(seed, 150) for seed in range(1, 5)]
    for _ in range(30):
        chosen = dice.randrange(len(contexts))
        contexts[chosen] = contexts[chosen][: dice.randint(30, 190)] + ids(dice.randrange(10**6), dice.randint(1, 90))
        last = dice.randint(1, 4)
        expected = alone.forward(Tokens(contexts[chosen]), last)
        assert torch.equal(model.forward(Tokens(contexts[chosen]), last), expected)


def test_it_keeps_no_more_than_it_may(model: LeanModel) -> None:
    model.forward(Tokens(ids(0, 100)), 1)
    size = sum(cache.nbytes for cache in model._contexts[0].caches)
    model.keep_contexts(ContextStore(2 * size))
    for seed in range(1, 6):
        model.forward(Tokens(ids(seed, 100)), 1)
        assert sum(cache.nbytes for _, _, caches in model._store._contexts for cache in caches) <= 2 * size
    assert [context.ids() for _, context, _ in model._store._contexts] == [ids(3, 100), ids(4, 100)]


def test_one_that_is_larger_than_that_is_rolled_back() -> None:
    caches = [torch.zeros(2, 1, 512, 8)]
    cached = Tokens(ids(1, 300))
    assert ContextStore(100).choose(object(), Tokens(ids(2, 300)), cached, caches) == (cached, caches)


def test_after_a_failure_nothing_is_kept(model: LeanModel) -> None:
    model.keep_contexts(ContextStore(PLENTY))
    model.forward(Tokens(ids(1, 100)), 1)
    model.forward(Tokens(ids(2, 100)), 1)
    with pytest.raises(IndexError):
        model.forward(Tokens([VOCAB]), 1)
    assert model._store._contexts == []


def test_two_models_share_the_room_and_not_the_contexts(folder: Path) -> None:
    one, other = load(folder), load(folder)
    one.forward(Tokens(ids(0, 100)), 1)
    size = sum(cache.nbytes for cache in one._contexts[0].caches)
    kept = ContextStore(2 * size)
    for model in (one, other):
        model.keep_contexts(kept)
    for seed in range(1, 4):
        for model in (one, other):
            expected = load(folder).forward(Tokens(ids(seed, 100)), 1)
            assert torch.equal(model.forward(Tokens(ids(seed, 100)), 1), expected)
    assert [(owner is one._owner, context.ids()) for owner, context, _ in kept._contexts] == [
        (True, ids(2, 100)),
        (False, ids(2, 100)),
    ]
    one.keep_contexts(ContextStore(0))
    assert [context.ids() for _, context, _ in kept._contexts] == [ids(2, 100)]
