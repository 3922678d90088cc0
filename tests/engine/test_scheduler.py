"""Answers that share rounds get the tokens that they have alone, in any order of joining, leaving, cancelling."""

import itertools
import random
from collections.abc import Iterator, Sequence

import pytest
import torch

from specgen.core.tokens import Tokens
from specgen.core.types import SamplingParams
from specgen.engine import decode as decode_module
from specgen.engine.decode import Limits, Round, Scheduler
from specgen.engine.drafters.lookup import LookupDrafter
from specgen.engine.pacing.controller import AdaptiveController, FixedController
from specgen.engine.sampling.sampler import NonFiniteLogits, Sampler
from specgen.nn.interface import ForwardCall
from tests.fakes import TableModel, rounds, tokens_of

VOCAB = 24


def answer(
    scheduler: Scheduler, prompt: list[int], params: SamplingParams, new: int, end_ids: Sequence[int] = (0,)
) -> Iterator[Round]:
    limits = Limits(len(prompt) + new, "length", frozenset(end_ids))
    controller = AdaptiveController() if params.seed % 2 else FixedController(3)
    sampler = Sampler(params, len(prompt))
    return scheduler.rounds(LookupDrafter(), Tokens(prompt), sampler, limits, controller)


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_joining_leaving_and_cancelling_gives_each_its_own_tokens(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_module, "PIECE", 6)  # so that prompts are read in pieces beside other answers
    dice = random.Random(seed)
    target = TableModel(VOCAB, seed=seed, order=2, spread=2.0)
    scheduler = Scheduler(target)
    scheduler.hold(dice.randint(1, 4))
    running: list[tuple[Iterator[Round], list[Round], list[int]]] = []
    for number in itertools.count():
        if number < 8 and dice.random() < 0.6:
            prompt = dice.choices(range(1, VOCAB), k=dice.randint(1, 20))
            params = SamplingParams(temperature=dice.choice([0.0, 1.0]), seed=number)
            new = dice.randint(1, 30)
            alone = rounds(TableModel(VOCAB, seed=seed, order=2, spread=2.0), prompt, params, new=new, end_ids=[0])
            running.append((answer(scheduler, prompt, params, new), [], tokens_of(alone)))
        for entry in dice.sample(running, dice.randint(0, len(running))):
            stream, done, expected = entry
            if dice.random() < 0.03:
                stream.close()  # type: ignore[attr-defined]
                assert tokens_of(done) == expected[: len(tokens_of(done))]
                running.remove(entry)
                continue
            try:
                done.append(next(stream))
            except StopIteration:
                assert tokens_of(done) == expected
                running.remove(entry)
        if number >= 8 and not running:
            break
    assert scheduler._members == [], "whoever leaves leaves nothing behind"


def test_answers_that_are_open_at_once_share_passes() -> None:
    target = TableModel(VOCAB, order=2, spread=2.0)
    scheduler = Scheduler(target)
    assert scheduler.hold(4) == 4
    streams = [answer(scheduler, [5, number], SamplingParams(), 10, ()) for number in range(1, 5)]
    for _ in range(3):
        for stream in streams:
            next(stream)
    assert target.widths == [1, 2, 3, 4, 4, 4], "they join one after the other; then a pass has one row of each"


def test_an_answer_waits_where_the_model_holds_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    target = TableModel(VOCAB, order=2, spread=2.0)
    answers: list[int] = []
    forward_many = target.forward_many

    def count(calls: Sequence[ForwardCall]) -> list[torch.Tensor]:
        answers.append(len(calls))
        return forward_many(calls)

    monkeypatch.setattr(target, "forward_many", count)
    scheduler = Scheduler(target)
    first, second = (answer(scheduler, [5, number], SamplingParams(), 4, ()) for number in (1, 2))
    next(first)
    next(second)
    assert set(answers) == {1}


def test_a_faulty_answer_fails_alone() -> None:
    """Its own scores are NaN. The other one never meets them."""
    target = TableModel(VOCAB, order=1)
    target.table[7] = float("nan")
    target.table[:, 7] = -50.0
    scheduler = Scheduler(target)
    scheduler.hold(2)
    good, bad = (answer(scheduler, prompt, SamplingParams(), 5, ()) for prompt in ([5], [7]))
    taken = [next(good)]
    with pytest.raises(NonFiniteLogits):
        next(bad)
    taken += good
    assert tokens_of(taken) == tokens_of(rounds(target, [5], new=5))
