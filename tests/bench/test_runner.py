"""The order of runs."""

from specgen.bench.runner import interleave, warm_up
from specgen.bench.suites import SuitePrompt
from specgen.core.events import Progress
from specgen.core.progress import follow
from tests.bench.fake_runs import FakeContender

PROMPTS = {SuitePrompt("a", "chat", "x"): [7, 7], SuitePrompt("b", "code", "y"): [8, 8, 8]}


def test_every_prompt_goes_through_all_contenders_before_the_next() -> None:
    calls: list[tuple[str, int, int]] = []
    contenders = [FakeContender("plain", calls), FakeContender("model", calls)]
    runs = follow(interleave(contenders, PROMPTS, repeat=2, new=3), lambda _: None)
    once = [("plain", 7, 3), ("model", 7, 3)], [("plain", 8, 3), ("model", 8, 3)]
    assert calls == [*once[0], *once[0], *once[1], *once[1]]
    places = [(run.prompt.id, run.repetition, run.contender) for run in runs]
    assert places[:4] == [("a", 0, "plain"), ("a", 0, "model"), ("a", 1, "plain"), ("a", 1, "model")]


def test_a_peer_writes_as_much_as_plain_decoding_did() -> None:
    calls: list[tuple[str, int, int]] = []
    contenders = [
        FakeContender("plain", calls, answer=(1, 2)),
        FakeContender("model", calls),
        FakeContender("p", calls, peer_of="plain"),
    ]
    follow(interleave(contenders, PROMPTS, repeat=1, new=4), lambda _: None)
    assert calls[:3] == [("plain", 7, 4), ("model", 7, 4), ("p", 7, 2)]


def test_progress_says_where_it_is() -> None:
    shown: list[Progress] = []
    follow(interleave([FakeContender("plain", [])], PROMPTS, repeat=1, new=3), shown.append)  # type: ignore[arg-type]
    assert [event.what for event in shown] == ["prompt 1 of 2 (chat): plain", "prompt 2 of 2 (code): plain"]


def test_the_warm_up_reads_the_longest_prompt_and_counts_for_nothing() -> None:
    calls: list[tuple[str, int, int]] = []
    follow(warm_up([FakeContender("plain", calls), FakeContender("model", calls)], PROMPTS), lambda _: None)
    assert [call[:2] for call in calls] == [("plain", 8), ("model", 8)]
