"""Confidence intervals and p-values."""

import math
import random
import statistics

import pytest

from specgen.bench.bootstrap import difference_interval, median_interval, p_value, ratio_interval


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """For the median of a hundred samples. The percentile method is known to be slightly too narrow."""
    source = random.Random(1)
    held = 0
    for _ in range(100):
        interval = median_interval([source.gauss(5.0, 1.0) for _ in range(30)])
        assert interval is not None
        held += interval[0] <= 5.0 <= interval[1]
    assert 85 <= held <= 100


def test_it_is_the_same_in_every_run_and_narrower_with_more_prompts() -> None:
    values = [float(value % 7) for value in range(60)]
    few, many = median_interval(values[:9]), median_interval(values)
    assert few is not None
    assert many is not None
    assert median_interval(values) == many
    assert many[1] - many[0] < few[1] - few[0]
    assert many[0] <= statistics.median(values) <= many[1]


def test_of_two_prompts_nothing_is_said() -> None:
    assert median_interval([1.0, 2.0]) is ratio_interval([1.0], [2.0]) is None
    assert difference_interval([[1.0], [2.0]], [[1.0], [2.0]]) is None


def test_a_ratio_is_that_of_sums() -> None:
    interval = ratio_interval([1.0, 1.0, 30.0], [2.0, 2.0, 60.0])
    assert interval == (0.5, 0.5)
    assert ratio_interval([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]) is None


def test_a_difference_is_paired() -> None:
    """Prompts differ far more from each other than the two reports do."""
    before = [[10.0, 50.0, 90.0], [100.0, 100.0, 100.0]]
    after = [[each - 5.0 for each in before[0]], before[1]]
    low, high = difference_interval(before, after) or (0.0, 0.0)
    assert abs(low + 0.05) < 1e-9 > abs(high + 0.05)


@pytest.mark.parametrize(
    ("count", "student", "expected"), [(6, 2.571, 0.05), (8, 5.408, 0.001), (12, 3.106, 0.01), (400, 1.966, 0.05)]
)
def test_the_chance_of_a_paired_difference_is_that_of_the_tables(count: int, student: float, expected: float) -> None:
    logs = [(-1.0) ** index for index in range(count)]
    shift = student * statistics.stdev(logs) / math.sqrt(count)
    assert p_value([math.exp(0.1 * (log + shift)) for log in logs]) == pytest.approx(expected, rel=0.01)
    assert p_value([math.exp(0.1 * log) for log in logs]) == pytest.approx(1.0)


def test_what_does_not_spread_is_certain() -> None:
    assert (p_value([2.0] * 6), p_value([1.0] * 6)) == (0.0, 1.0)
