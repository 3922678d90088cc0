"""Statistics from events."""

from specgen.core.events import Drafted, LoadedModel, Span, Started, Stats, Step
from specgen.core.types import SamplingParams

STARTED = Started(LoadedModel("t"), None, "lookup", "cpu", "float32", "none", SamplingParams(), 4, prompt_tokens=9)


def step(tokens: int, drafted: int, accepted: int) -> Step:
    return Step(tuple(range(tokens)), (Span("x", "bonus"),), drafted, accepted, draft_s=0.25, verify_s=0.5)


def test_figures_add_up() -> None:
    stats = Stats().add(STARTED).add(step(5, 4, 4), 1.0).add(step(3, 4, 2), 2.0).add(Step((), ()), 2.5)
    assert (stats.prompt_tokens, stats.generated_tokens, stats.rounds) == (9, 8, 2)
    assert (stats.drafted_tokens, stats.accepted_tokens, stats.acceptance_rate) == (8, 6, 0.75)
    assert stats.mean_acceptance_length == 4.0
    assert (stats.draft_s, stats.verify_s, stats.other_s) == (0.5, 1.0, 1.0)
    assert stats.time_to_first_token_s == 1.0


def test_speed_counts_the_tokens_after_the_first_round_over_the_time_after_it() -> None:
    stats = Stats().add(step(5, 4, 4), 1.0).add(step(3, 4, 2), 2.0)
    assert stats.tokens_per_second == 3.0


def test_drafting_is_told_apart_by_length_position_and_source() -> None:
    looked_up = Step((1, 2), (), 3, 1, drafted_sources=("lookup",) * 3)
    mixed = Step((1, 2, 3), (), 2, 2, drafted_sources=("draft", "lookup"))
    stats = Stats().add(step(1, 0, 0), 1.0).add(looked_up, 2.0).add(mixed, 3.0).add(step(1, 0, 0), 4.0)
    assert stats.accepted_lengths == (0, 1, 1), "of the rounds that drafted"
    assert stats.drafted_lengths == (0, 0, 1, 1)
    assert stats.acceptance_by_position == (1.0, 0.5, 0.0)
    assert stats.by_source == {"lookup": Drafted(4, 2), "draft": Drafted(1, 1)}


def test_speed_up_is_over_the_one_token_rounds_of_the_same_run() -> None:
    stats = Stats().add(step(1, 0, 0), 10.0)
    assert stats.speed_up is None
    stats = stats.add(Step((1, 2, 3), (), 2, 2), 12.0)
    assert stats.speed_up is None, "no one-token round but the one that read the prompt"
    stats = stats.add(Step((4,), ()), 13.5)
    assert stats.speed_up == (10.0 + 4 * 1.5) / 13.5
    assert stats.speed_up_is_estimate
    for elapsed in (14.5, 15.5):
        stats = stats.add(Step((5,), ()), elapsed)
    assert not stats.speed_up_is_estimate
    assert stats.speed_up == (10.0 + 6 * 1.0) / 15.5


def test_more_than_the_mean_acceptance_length_is_no_speed_up() -> None:
    stats = Stats().add(STARTED).add(Step((1,), ()), 0.1).add(Step((2,), ()), 9.1)
    assert stats.add(Step((3, 4), (), 1, 1), 9.2).speed_up == 4 / 3


def test_nothing_generated_is_no_division_by_zero() -> None:
    stats = Stats()
    assert (stats.acceptance_rate, stats.mean_acceptance_length, stats.tokens_per_second) == (0.0, 0.0, 0.0)
    assert (stats.acceptance_by_position, stats.speed_up) == ((), None)
