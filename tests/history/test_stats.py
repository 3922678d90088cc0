"""Acceptance over time: sums, and declines."""

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from specgen.core.prices import Cost, Prices
from specgen.history.rows import Sample
from specgen.history.stats import WEEKS, by_pair, by_template

NOW = datetime(2026, 3, 20, tzinfo=UTC)
SAMPLE = Sample(NOW, None, "t", "d", drafted=100, accepted=60, generated=90, rounds=30, elapsed_s=2.0, speed_up=1.5)


def test_rates_are_over_tokens_and_speed_up_over_seconds() -> None:
    short = replace(SAMPLE, drafted=10, accepted=0, generated=10, rounds=10, elapsed_s=6.0, speed_up=1.0)
    nothing = replace(SAMPLE, drafted=0, accepted=0, generated=5, rounds=5, elapsed_s=9.0, speed_up=None)
    (trend,) = by_pair([SAMPLE, short, nothing], NOW).values()
    assert (trend.answers, trend.generated_tokens, trend.drafted_tokens) == (3, 105, 110)
    assert trend.acceptance_rate == pytest.approx(60 / 110)
    assert trend.mean_acceptance_length == pytest.approx(105 / 45)
    assert trend.speed_up == pytest.approx((2 * 1.5 + 6 * 1.0) / 8)


def test_nothing_drafted_has_no_rate() -> None:
    plain = replace(SAMPLE, draft="none", drafted=0, accepted=0, rounds=90, speed_up=1.0)
    (trend,) = by_pair([plain], NOW).values()
    assert (trend.acceptance_rate, trend.speed_up, trend.mean_acceptance_length) == (None, None, 1.0)


def test_a_million_tokens_take_longer_without_speculation_by_the_speed_up() -> None:
    """An answer of 90 tokens in 2 s, with a speed-up of 1.5."""
    (trend,) = by_pair([SAMPLE], NOW).values()
    with_it, without = trend.per_million(Prices(per_hour=3.0))
    assert with_it.hours == pytest.approx(1e6 / 90 * 2 / 3600)
    assert (with_it.money, with_it.kwh) == (pytest.approx(3 * 1e6 / 90 * 2 / 3600), None)
    assert without.hours == pytest.approx(1e6 / 90 * 3 / 3600)
    (unknown,) = by_pair([replace(SAMPLE, speed_up=None)], NOW).values()
    assert unknown.per_million(Prices())[1] == Cost()


def test_groups_the_one_with_the_most_answers_first() -> None:
    samples = [SAMPLE, replace(SAMPLE, draft="e", template="a"), replace(SAMPLE, draft="e", template="b")]
    assert list(by_pair(samples, NOW)) == [("t", "e"), ("t", "d")]
    assert list(by_template(samples, NOW)) == ["a", "b"]


def test_weeks_count_back_from_now() -> None:
    ages = {0: 50, 6: 70, 7: 20, 7 * WEEKS - 1: 90, 7 * WEEKS: 0}
    samples = [replace(SAMPLE, time=NOW - timedelta(days=days), accepted=accepted) for days, accepted in ages.items()]
    (trend,) = by_pair(samples, NOW).values()
    assert trend.weeks == (0.9, *[None] * (WEEKS - 3), 0.2, 0.6)


def answers(number: int, rate: float, seed: int = 0) -> list[Sample]:
    """Answers of all lengths whose acceptance rates vary widely around `rate`."""
    draw = random.Random(seed)
    made = []
    for _ in range(number):
        drafted = draw.choice([5, 20, 60, 150])
        own = draw.betavariate(12 * rate, 12 * (1 - rate))
        made.append(replace(SAMPLE, drafted=drafted, accepted=sum(draw.random() < own for _ in range(drafted))))
    return made


def drifted(samples: Sequence[Sample]) -> bool:
    (trend,) = by_pair(samples, NOW).values()
    return trend.drift is not None


def test_a_fall_is_noticed_and_measured() -> None:
    samples = [*answers(80, 0.8), *answers(20, 0.5, seed=1)]
    (trend,) = by_pair(samples, NOW).values()
    assert trend.drift is not None
    assert trend.drift.answers == 20
    assert trend.drift.earlier == pytest.approx(0.8, abs=0.06)
    assert trend.drift.recent == pytest.approx(0.5, abs=0.12)


def test_a_fall_that_is_over_is_no_drift() -> None:
    assert not drifted([*answers(60, 0.5), *answers(40, 0.5, seed=1)])
    assert not drifted([*answers(30, 0.4), *answers(20, 0.8, seed=1)])


def test_what_varies_anyway_is_no_drift() -> None:
    assert sum(drifted(answers(60, 0.6, seed)) for seed in range(100)) <= 2


def test_one_long_bad_answer_is_no_drift() -> None:
    bad = replace(SAMPLE, drafted=3000, accepted=100)
    assert not drifted([*answers(80, 0.8), *answers(19, 0.8, seed=1), bad])


def test_few_answers_or_tokens_say_nothing() -> None:
    assert not drifted([*answers(19, 0.9), *answers(20, 0.2, seed=1)])
    tiny = [replace(SAMPLE, drafted=2, accepted=0) for _ in range(20)]
    assert not drifted([*answers(80, 0.9), *tiny])
