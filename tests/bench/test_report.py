"""Figures from measurements that are made up."""

import json

import pytest

from specgen.bench.report import categories, compare, distributions, identical, roofline, run_records
from specgen.bench.roofline import PassTimes
from specgen.core.prices import Prices
from tests.bench.fake_runs import FakeContender, measurement, run

PLAIN, MODEL, PEER = FakeContender("plain", []), FakeContender("model", []), FakeContender("peer", [], peer_of="model")


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
    assert table["model"]["over_peer"] == pytest.approx({"program of peer": 5.0})
    assert table["plain"]["over_peer"] == table["peer"]["over_peer"] == {}
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
    report = roofline(1e9, {"target": PassTimes(2_000_000, 256, {1: 0.004, 8: 0.006})})
    model = report["models"]["target"]
    assert model["bound_s"] == 0.002
    assert model["widths"]["8"] == {"over_bound": 3.0, "over_width_1": 1.5, "seconds": 0.006}
    unknown = roofline(1e9, {"target": PassTimes(None, 256, {1: 0.004})})["models"]["target"]
    assert unknown["widths"]["1"]["over_bound"] is None


def test_every_run_is_in_the_report_and_its_text_only_as_a_digest() -> None:
    runs = [run("plain", "a", measurement(10)), run("peer", "a", measurement(10, inside=False))]
    records = json.loads(json.dumps(run_records(runs)))
    assert records[0]["output"] == records[1]["output"]
    assert records[0]["tokens_per_second"] == pytest.approx(10)
    assert records[0]["decoding"]["verify_s"] == pytest.approx(0.2)
    assert records[1]["decoding"] is None


def test_a_figure_has_the_interval_of_its_prompts() -> None:
    speeds = [10.0, 20.0, 30.0, 40.0, 50.0]
    runs = [run("plain", str(index), measurement(speed)) for index, speed in enumerate(speeds)]
    low, high = compare([PLAIN], runs)["plain"]["intervals"]["tokens_per_second"]
    assert 10 <= low < 30 < high <= 50
    assert compare([PLAIN], runs[:2])["plain"]["intervals"]["tokens_per_second"] is None


def test_the_worst_decile_is_the_mean_of_the_tenth_that_gains_least() -> None:
    gains = [3.0, 0.5, 2.0, 0.7, *[2.5] * 16]
    runs = [run("plain", str(index), measurement(10)) for index in range(20)]
    runs += [run("model", str(index), measurement(10 * gain)) for index, gain in enumerate(gains)]
    figures = compare([PLAIN, MODEL], runs)["model"]
    assert figures["worst_decile"] == pytest.approx(0.6)
    assert figures["worst_prompts"] == ["1", "3"]
    assert compare([PLAIN, MODEL], [*runs[:3], *runs[20:23]])["model"]["worst_prompts"] == ["1"]


def test_prompts_are_told_apart_by_distribution_where_they_are_marked() -> None:
    runs = [run("plain", "a", measurement(10), distribution="in"), run("plain", "b", measurement(90))]
    assert list(distributions([PLAIN], runs)) == ["in"]
    assert distributions([PLAIN], runs[1:]) == {}


def test_acceptance_by_position_is_of_all_runs_together() -> None:
    runs = [run("model", "a", measurement(10, accepted=2)), run("plain", "a", measurement(10))]
    assert compare([PLAIN, MODEL], runs)["model"]["acceptance_by_position"] == [0.2]


def test_a_million_tokens_take_hours_energy_and_money() -> None:
    """Five tokens in 1.4 s and for 7.2 J each time."""
    runs = [run("plain", prompt, measurement(10), joules=7.2) for prompt in "ab"]
    taken = compare([PLAIN], runs, Prices(per_hour=2.0, per_kwh=0.5))["plain"]["per_million"]
    assert taken == pytest.approx({"hours": 1.4e6 / 5 / 3600, "kwh": 0.4, "money": 2 * 1.4e6 / 5 / 3600 + 0.2})
    assert compare([PLAIN], runs)["plain"]["per_million"]["money"] is None
    runs[0] = run("plain", "a", measurement(10))
    taken = compare([PLAIN], runs, Prices(per_kwh=0.5))["plain"]["per_million"]
    assert (taken["kwh"], taken["money"]) == (None, None)


def test_the_peak_of_memory_is_the_highest_of_all_runs() -> None:
    runs = [run("plain", "a", measurement(10), peak=5), run("plain", "b", measurement(10), peak=7)]
    assert compare([PLAIN], runs)["plain"]["peak_memory_bytes"] == 7
