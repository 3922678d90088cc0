from dataclasses import replace

from specgen.core import SamplingParams
from specgen.events import Finished, LoadedModel, Stats
from specgen.render.summary import live_line, summary
from tests.render.samples import STARTED, STATS

FINISHED = Finished("end", "text", STATS)
SPEED = "128 tokens in 6.5 s · 21.0 tok/s · first token 0.42 s"
ACCEPTANCE = "acceptance rate 78 % · mean acceptance length 4.0"
MODELS = "target org/big@0123456 · draft org/small · seed 123"


def test_two_lines_where_they_fit() -> None:
    assert summary(STARTED, FINISHED, "full").splitlines() == [f"{SPEED} · {ACCEPTANCE}", MODELS]


def test_a_narrow_terminal_breaks_between_figures() -> None:
    assert summary(STARTED, FINISHED, "full", 80).splitlines() == [SPEED, ACCEPTANCE, MODELS]
    assert max(map(len, summary(STARTED, FINISHED, "full", 40).splitlines())) <= 40


def test_short_is_speed_and_acceptance() -> None:
    assert summary(STARTED, FINISHED, "short") == f"128 tokens · 21.0 tok/s · {ACCEPTANCE}\n"
    assert summary(STARTED, FINISHED, "none") == ""


def test_without_a_drafter_there_are_no_acceptance_figures() -> None:
    started = replace(STARTED, draft=None, drafter="none", sampling=SamplingParams())
    assert summary(started, FINISHED, "full").splitlines() == [SPEED, "target org/big@0123456"]


def test_lookup_is_named() -> None:
    started = replace(STARTED, draft=None, drafter="lookup", sampling=SamplingParams())
    assert "target org/big@0123456 · drafter lookup" in summary(started, FINISHED, "full")


def test_a_drafter_that_never_drafted_says_so() -> None:
    finished = replace(FINISHED, stats=replace(STATS, drafted_tokens=0, accepted_tokens=0))
    assert summary(STARTED, finished, "short") == "128 tokens · 21.0 tok/s · nothing drafted\n"


def test_an_early_stop_is_told() -> None:
    for reason, words in (("length", "token limit"), ("context", "context is full"), ("interrupted", "interrupted")):
        assert words in summary(STARTED, replace(FINISHED, reason=reason), "short")


def test_an_empty_answer_has_no_speed() -> None:
    finished = Finished("end", "", Stats(elapsed_s=0.5))
    assert summary(replace(STARTED, draft=LoadedModel("d")), finished, "short") == "0 tokens\n"
    assert summary(None, finished, "full") == "0 tokens in 0.50 s\n"


def test_the_live_line_leaves_out_what_does_not_fit() -> None:
    assert live_line(STATS, "model", 80) == f"128 tokens · 21.0 tok/s · {ACCEPTANCE}"
    assert live_line(STATS, "model", 40) == "128 tokens · 21.0 tok/s"
    assert len(live_line(STATS, "model", 8)) < 8
