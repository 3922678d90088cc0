"""A report as text."""

from typing import Any

import pytest

from specgen.bench import report
from specgen.bench.roofline import PassTimes
from specgen.bench.tables import as_text
from specgen.core.types import EngineOptions
from tests.bench.fake_runs import FakeContender, measurement, run, whole_report


@pytest.fixture
def made() -> dict[str, Any]:
    """Plain, a drafter and a peer on two prompts of two categories."""
    contenders = [FakeContender("plain", []), FakeContender("model", []), FakeContender("peer", [], peer_of="model")]
    runs = [
        run(name, prompt, measurement(speed, accepted=accepted, inside=name != "peer"), category=category)
        for prompt, category in (("a", "chat"), ("b", "code"))
        for name, speed, accepted in (("plain", 10, 0), ("model", 25, 2), ("peer", 5, 0))
    ]
    return whole_report(contenders, runs, engine=EngineOptions(num_draft_tokens=4))


def line(text: str, start: str) -> list[str]:
    """The cells of the first line that begins with `start`."""
    return next(line for line in text.splitlines() if line.startswith(start))[len(start) :].split()


def test_ratios_come_first(made: dict[str, Any]) -> None:
    text = as_text(made)
    assert line(text, "overall")[:9] == ["x", "plain", "95", "%", "worst", "x", "program", "of", "peer"]
    assert line(text, "model")[:5] == ["2.50", "-", "2.50", "5.00", "25.0"]
    assert line(text, "peer")[:5] == ["0.50", "-", "0.50", "-", "5.0"]
    assert [text.index(name) for name in ("overall", "chat", "code")] == sorted(
        text.index(name) for name in ("overall", "chat", "code")
    )


def test_columns_stand_under_each_other_and_fit_a_screen(made: dict[str, Any]) -> None:
    block = next(block for block in as_text(made).split("\n\n") if block.startswith("overall")).splitlines()
    assert len({len(row) for row in block}) == 1
    assert len(block[0]) <= 120


def test_the_head_says_what_ran_where(made: dict[str, Any]) -> None:
    head = as_text(made).partition("\n\n")[0]
    assert "target org/big@0123456, cpu, float32, quant int8\ndraft none" in head
    assert "CPU, 2 cores, 1 threads, 24.00 GB of memory" in head
    assert "64 new tokens, greedy, k 4, 1 repetition" in head


def test_without_a_peer_there_is_no_column_for_it(made: dict[str, Any]) -> None:
    for table in (made["overall"], *made["categories"].values()):
        del table["peer"]
        table["model"]["over_peer"] = {}
    assert "x program" not in as_text(made)


def test_one_category_is_shown_once(made: dict[str, Any]) -> None:
    del made["categories"]["code"]
    assert "overall" not in as_text(made)


def test_a_text_that_differs_is_told_in_capitals(made: dict[str, Any]) -> None:
    assert "\nidentical output" in as_text(made)
    made["overall"]["model"]["same_text"], made["identical"] = 1, False
    assert "\nNOT identical to the first text of plain decoding: model 1 of 2\n" in as_text(made)


def test_what_was_asked_for_besides_follows(made: dict[str, Any]) -> None:
    made |= {
        "prefill": {"tokens": 1000, "over_peer": 1.5, "seconds": {"specgen": 2.0, "transformers": 3.0}},
        "roofline": report.roofline(30e9, {"target": PassTimes(1_500_000_000, 256, {1: 0.055, 8: 0.066})}),
    }
    text = as_text(made)
    assert "reading 1000 tokens: 1.50 times as fast as the peer; specgen 2.00 s, transformers 3.00 s\n" in text
    assert line(text, "target, over the bytes bound") == ["1.10", "1.32"]
    assert line(text, "target, over width 1") == ["1.00", "1.20"]
    assert "read bandwidth 30.00 GB/s; weights that a pass reads: target 1.50 GB\n" in text
    assert "peak resident memory, without any peer: 3.50 GB\n" in text


def test_what_it_costs_is_said_where_a_price_is_named(made: dict[str, Any]) -> None:
    assert "a million tokens" not in as_text(made)
    made["settings"]["prices"]["per_hour"] = 2.0
    text = as_text(made)
    assert line(text, "a million tokens") == ["hours", "kWh", "money"]
    assert "\n2 an hour; no energy counter is readable\n" in text


def test_a_drafter_that_drafted_nothing_proves_nothing(made: dict[str, Any]) -> None:
    made["overall"]["model"]["acceptance_rate"] = None
    text = as_text(made)
    assert "identical output" not in text
    assert "\ndrafted nothing, so the equal text proves nothing: model\n" in text
