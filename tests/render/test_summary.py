from dataclasses import replace

from specgen.core.events import Finished, LoadedModel, Stats
from specgen.core.types import SamplingParams
from specgen.render.summary import live_line, summary
from tests.render.samples import STARTED, STATS

FINISHED = Finished("end", "text", STATS)
SPEED = "128 tokens in 6.5 s · 21.0 tok/s · ~1.7x plain decoding · first token 0.42 s"
ACCEPTANCE = "acceptance rate 78 % · mean acceptance length 4.0"
SHORT = "128 tokens · 21.0 tok/s · ~1.7x · acceptance rate 78 % · length 4.0"
POSITIONS = "draft 77 % of 103 · lookup 85 % of 20 · by position 97 83 66 75 50 50 100 100 %"
ROUNDS = "accept lengths 0:1 1:4 2:6 3:4 4:12 5-8:3 · 27 tokens drafted in vain"
TIME = "time 15 % draft, 62 % verify, 23 % other"
MODELS = "target org/big@0123456 · draft org/small · float32 · seed 123"


def test_full_says_what_speculation_gained_and_where_tokens_and_time_went() -> None:
    lines = summary(STARTED, FINISHED, "full").splitlines()
    assert lines == [SPEED, ACCEPTANCE, POSITIONS, f"{ROUNDS} · {TIME}", MODELS]


def test_a_narrow_terminal_breaks_between_figures() -> None:
    lines = summary(STARTED, FINISHED, "full", 80).splitlines()
    assert lines == [SPEED, ACCEPTANCE, POSITIONS, ROUNDS, TIME, MODELS]
    assert max(map(len, summary(STARTED, FINISHED, "full", 40).splitlines())) <= 40


def test_a_figure_that_is_wider_than_the_terminal_breaks_between_words() -> None:
    lines = summary(STARTED, FINISHED, "full", 24).splitlines()
    assert max(map(len, lines)) <= 24
    assert " ".join(lines).count("by position 97 83 66 75 50 50 100 100 %") == 1


def test_short_is_speed_and_acceptance() -> None:
    assert summary(STARTED, FINISHED, "short") == f"{SHORT}\n"
    assert summary(STARTED, FINISHED, "none") == ""


def test_the_speed_up_is_marked_until_enough_is_measured() -> None:
    enough = replace(STATS, one_token_s=(0.08, 0.085, 0.09))
    for stats, figure in ((STATS, " · ~1.7x · "), (enough, " · 1.7x · ")):
        assert figure in summary(STARTED, replace(FINISHED, stats=stats), "short")
        assert figure in live_line(stats, "hybrid", 80)
    unknown = replace(STATS, one_token_s=())
    for line in (summary(STARTED, replace(FINISHED, stats=unknown), "full"), live_line(unknown, "model", 80)):
        assert "x plain" not in line
        assert "tok/s" in line


def test_without_a_drafter_there_are_no_acceptance_figures() -> None:
    started = replace(STARTED, draft=None, drafter="none", sampling=SamplingParams())
    stats = replace(STATS, drafted_tokens=0, accepted_tokens=0, accepted_lengths=(), drafted_lengths=(), by_source={})
    lines = summary(started, replace(FINISHED, stats=stats), "full").splitlines()
    assert lines == ["128 tokens in 6.5 s · 21.0 tok/s · first token 0.42 s", "target org/big@0123456 · float32"]
    assert live_line(stats, "none", 80) == "128 tokens · 21.0 tok/s"


def test_long_accept_lengths_are_counted_by_octaves() -> None:
    stats = replace(STATS, accepted_lengths=(1,) * 40, drafted_lengths=(0,) * 39 + (40,))
    text = summary(STARTED, replace(FINISHED, stats=stats), "full")
    assert "accept lengths 0:1 1:1 2:1 3:1 4:1 5-8:4 9-16:8 17-32:16 33-64:7 · " in text
    assert "by position 98 95 92 90 88 85 82 80 %" in text


def test_lookup_is_named() -> None:
    started = replace(STARTED, draft=None, drafter="lookup", sampling=SamplingParams())
    assert "target org/big@0123456 · drafter lookup" in summary(started, FINISHED, "full")


def test_a_drafter_that_never_drafted_says_so() -> None:
    stats = replace(STATS, drafted_tokens=0, accepted_tokens=0, one_token_s=())
    assert summary(STARTED, replace(FINISHED, stats=stats), "short") == "128 tokens · 21.0 tok/s · nothing drafted\n"


def test_an_early_stop_is_told() -> None:
    for reason, words in (("length", "token limit"), ("context", "context is full"), ("interrupted", "interrupted")):
        assert words in summary(STARTED, replace(FINISHED, reason=reason), "short")


def test_an_empty_answer_has_no_speed() -> None:
    finished = Finished("end", "", Stats(elapsed_s=0.5))
    assert summary(replace(STARTED, draft=LoadedModel("d")), finished, "short") == "0 tokens\n"
    assert summary(None, finished, "full") == "0 tokens in 0.50 s\n"


def test_the_live_line_leaves_out_what_does_not_fit() -> None:
    assert live_line(STATS, "hybrid", 80) == f"{SHORT} · hybrid"
    assert live_line(STATS, "model", 40) == "128 tokens · 21.0 tok/s · ~1.7x"
    assert len(live_line(STATS, "model", 8)) < 8


def test_full_says_what_the_models_are_computed_in() -> None:
    assert "draft org/small · int8 · seed" in summary(replace(STARTED, quant="int8"), FINISHED, "full")
