"""Figures from measurements that are made up."""

import json

import pytest

from specgen.bench.report import categories, compare, identical, roofline, run_records
from specgen.bench.roofline import Forwards
from tests.bench.made_up import Somebody, measurement, run

PLAIN, MODEL, PEER = Somebody("plain", []), Somebody("model", []), Somebody("peer", [], peer_of="model")


def test_a_ratio_is_the_median_over_prompts_of_ratios_within_a_prompt() -> None:
    """Medians of speeds divided by each other would be 30 / 20."""
    speeds = {"a": (10, 20), "b": (20, 30), "c": (40, 160)}
    runs = [run("plain", prompt, measurement(plain)) for prompt, (plain, _) in speeds.items()]
    runs += [run("model", prompt, measurement(model)) for prompt, (_, model) in speeds.items()]
    table = compare([PLAIN, MODEL], runs)
    assert table["plain"]["speed_up"] == 1.0
    assert table["model"]["speed_up"] == pytest.approx(2.0)
    assert table["model"]["tokens_per_second"] == pytest.approx(30)


def test_repetitions_of_a_prompt_count_as_one() -> None:
    runs = [run("plain", "a", measurement(speed), repetition=i) for i, speed in enumerate((10, 30, 1000))]
    runs += [run("plain", "b", measurement(50)), run("plain", "c", measurement(20))]
    assert compare([PLAIN], runs)["plain"]["tokens_per_second"] == pytest.approx(30)


def test_a_contender_is_compared_with_the_peer_that_does_the_same() -> None:
    runs = [run("plain", "a", measurement(10)), run("model", "a", measurement(40))]
    runs += [run("peer", "a", measurement(8, inside=False))]
    table = compare([PLAIN, MODEL, PEER], runs)
    assert table["model"]["over_peer"] == pytest.approx(5.0)
    assert table["plain"]["over_peer"] is table["peer"]["over_peer"] is None
    assert table["peer"]["speed_up"] == pytest.approx(0.8)


def test_rates_and_shares_are_of_all_runs_together() -> None:
    runs = [run("plain", "a", measurement(10)), run("plain", "b", measurement(10))]
    runs += [run("model", "a", measurement(10, accepted=2)), run("model", "b", measurement(10, accepted=3))]
    figures = compare([PLAIN, MODEL], runs)["model"]
    assert figures["acceptance_rate"] == 5 / 20
    assert figures["mean_acceptance_length"] == 10 / 5
    shares = [figures[f"{name}_share"] for name in ("draft", "verify", "other", "outside_forwards")]
    assert shares == pytest.approx([0.25, 0.5, 0.25, 0.375])


def test_what_nobody_knows_is_none() -> None:
    """A peer shows nothing of its inside, and an answer of one token has no decoding speed."""
    runs = [run("plain", "a", measurement(10)), run("peer", "a", measurement(10, ids=[1], inside=False))]
    figures = compare([PLAIN, PEER], runs)["peer"]
    for name in ("speed_up", "tokens_per_second", "acceptance_rate", "draft_share", "outside_forwards_share"):
        assert figures[name] is None
    assert figures["time_to_first_token_s"] == 1.0


def test_each_category_has_its_own_figures() -> None:
    runs = [run("plain", "a", measurement(10)), run("plain", "b", measurement(90), category="code")]
    tables = categories([PLAIN], runs)
    assert list(tables) == ["chat", "code"]
    assert tables["code"]["plain"]["tokens_per_second"] == pytest.approx(90)


def test_a_text_that_differs_is_reported_but_not_held_against_a_peer() -> None:
    runs = [run("plain", "a", measurement(10)), run("model", "a", measurement(10))]
    runs += [run("peer", "a", measurement(10, ids=[9, 9], inside=False))]
    table = compare([PLAIN, MODEL, PEER], runs)
    assert identical(table)
    assert (table["peer"]["same_text"], table["peer"]["texts"]) == (0, 1)
    runs[1] = run("model", "a", measurement(10, ids=[1, 2, 3, 4, 9]))
    assert not identical(compare([PLAIN, MODEL, PEER], runs))


def test_plain_decoding_has_to_repeat_itself() -> None:
    runs = [run("plain", "a", measurement(10)), run("plain", "a", measurement(10, ids=[1, 2]), repetition=1)]
    assert not identical(compare([PLAIN], runs))


def test_forward_times_stand_over_the_time_that_their_bytes_take() -> None:
    report = roofline(1e9, {"target": Forwards(2_000_000, 256, {1: 0.004, 8: 0.006})})
    model = report["models"]["target"]
    assert model["bound_s"] == 0.002
    assert model["widths"]["8"] == {"over_bound": 3.0, "over_width_1": 1.5, "seconds": 0.006}
    unknown = roofline(1e9, {"target": Forwards(None, 256, {1: 0.004})})["models"]["target"]
    assert unknown["widths"]["1"]["over_bound"] is None


def test_every_run_is_in_the_report_and_its_text_only_as_a_digest() -> None:
    runs = [run("plain", "a", measurement(10)), run("peer", "a", measurement(10, inside=False))]
    records = json.loads(json.dumps(run_records(runs)))
    assert records[0]["output"] == records[1]["output"]
    assert records[0]["tokens_per_second"] == pytest.approx(10)
    assert records[0]["decoding"]["verify_s"] == pytest.approx(0.2)
    assert records[1]["decoding"] is None
