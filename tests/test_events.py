"""Statistics from events."""

from specgen.core import SamplingParams
from specgen.events import LoadedModel, Span, Started, Stats, Step

STARTED = Started(LoadedModel("t"), None, "lookup", "cpu", "float32", SamplingParams(), 4, prompt_tokens=9)


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


def test_nothing_generated_is_no_division_by_zero() -> None:
    stats = Stats()
    assert (stats.acceptance_rate, stats.mean_acceptance_length, stats.tokens_per_second) == (0.0, 0.0, 0.0)
