"""Changes that a comparison of two reports finds, and noise that it ignores."""

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from specgen.bench.regressions import ReportChange, compare_reports
from specgen.core.errors import UsageError
from specgen.core.types import EngineOptions
from tests.bench.fake_runs import FakeContender, measurement, run, whole_report

CONTENDERS = [FakeContender("plain", []), FakeContender("model", [])]
IDS = (1, 2, 3, 4, 5)


def measured(
    *,
    plain: float = 10.0,
    gain: float = 2.0,
    seed: int = 0,
    accepted: int = 4,
    k: int | None = None,
    spread: float = 0.04,
    pace: float | None = None,
    categories: int = 1,
    **odd: Any,
) -> dict[str, Any]:
    """Twelve prompts of different speed, eight of each category where there are several, each moved by noise of
    `spread`; `odd` names the model's texts by prompt, `pace` is that of the machine, in seconds.
    """
    noise = random.Random(seed)
    runs = []
    for index in range(8 * categories if categories > 1 else 12):
        speed = plain * (1 + index / 6) * noise.uniform(0.8, 1.2)
        drafted = speed * gain * (1 + index % 3 / 10) * noise.uniform(1 - spread, 1 + spread)
        where = {"category": str(index % categories), "pace": pace}
        runs.append(run("plain", str(index), measurement(speed, ids=IDS), **where))
        made = measurement(drafted, ids=odd.get(f"text_{index}", IDS), accepted=accepted)
        runs.append(run("model", str(index), made, **where))
    return whole_report(CONTENDERS, runs, engine=EngineOptions(num_draft_tokens=k))


def kinds(changes: list[ReportChange]) -> list[tuple[str, str, bool]]:
    return [(change.kind, change.contender, change.worse) for change in changes]


@pytest.mark.parametrize("seed", range(1, 6))
def test_noise_is_no_change(seed: int) -> None:
    assert compare_reports(measured(), measured(seed=seed)) == []


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_median_that_moves_as_far_as_its_prompts_do_is_no_change(seed: int) -> None:
    """The median moves by more than the threshold, but so do single prompts."""
    assert compare_reports(measured(spread=0.3), measured(spread=0.3, seed=seed)) == []


def test_many_figures_on_a_busy_machine_seldom_look_changed() -> None:
    """Overall and in six categories: if each could err one time in fifty, every seventh comparison would."""
    noisy = [measured(spread=0.5, categories=6, seed=seed) for seed in range(121)]
    assert sum(bool(compare_reports(*both)) for both in pairwise(noisy)) <= 4


def test_a_draft_that_is_slow_on_one_kind_of_prompts_is_found() -> None:
    before, after = measured(categories=6), measured(categories=6, seed=1)
    for record in after["runs"]:
        if record["category"] == "3" and record["contender"] == "model":
            record["tokens_per_second"] *= 0.7
    (change,) = compare_reports(before, after)
    assert change.text.startswith("speed-up over plain decoding on 3 ")


def test_what_a_busy_machine_does_to_both_is_no_change() -> None:
    """The machine is 1.25 times as slow at everything."""
    before, after = measured(plain=10.0, pace=0.010), measured(plain=7.0, pace=0.0125, seed=1)
    assert kinds(compare_reports(measured(plain=10.0), measured(plain=6.0, seed=1))) == [("speed", "plain", True)]
    assert compare_reports(before, after) == []
    (change,) = compare_reports(before, measured(plain=5.0, pace=0.011, seed=1))
    assert change.worse
    assert change.text.startswith("tok/s, on a machine 0.91 times as fast as before, ")


def test_on_a_machine_that_is_not_itself_speed_is_not_compared() -> None:
    """The load slows the draft more than the target. Texts are compared all the same."""
    after = measured(plain=5.0, gain=1.5, pace=0.020, seed=1, text_7=(1, 2, 3, 4, 6))
    changes = compare_reports(measured(pace=0.010), after)
    assert kinds(changes) == [("output", "model", True)] * 2 + [("speed", "this machine", False)]
    assert "0.50 times as fast as before" in changes[-1].text
    other = measured(plain=5.0, gain=1.5, pace=0.020, seed=1)
    other["machine"] = other["machine"] | {"processor": "another"}
    assert kinds(compare_reports(measured(pace=0.010), other)) == [("speed", "model", True)]


def test_a_slow_draft_is_found_also_where_the_machine_is_faster_today() -> None:
    assert kinds(compare_reports(measured(), measured(gain=1.8, seed=1))) == [("speed", "model", True)]
    assert kinds(compare_reports(measured(), measured(gain=1.8, plain=12.5, seed=1))) == [("speed", "model", True)]


def test_a_faster_draft_is_a_change_and_no_regression() -> None:
    (change,) = compare_reports(measured(), measured(gain=2.4, seed=1))
    assert not change.worse
    assert "1.2" in change.text


def test_plain_decoding_that_is_much_slower_is_found() -> None:
    assert kinds(compare_reports(measured(), measured(plain=5.0, seed=1))) == [("speed", "plain", True)]


def test_a_wrong_token_is_found_with_its_prompt() -> None:
    changes = compare_reports(measured(), measured(text_7=(1, 2, 3, 4, 6)))
    assert kinds(changes) == [("output", "model", True)] * 2
    assert changes[0].text == "1 of 12 texts changed: prompts 7"
    assert "not those of plain decoding" in changes[1].text


def test_a_draft_that_guesses_worse_is_found() -> None:
    changes = compare_reports(measured(accepted=4), measured(accepted=3))
    assert kinds(changes) == [("acceptance", "model", True)]
    assert "40.0 % -> 30.0 %" in changes[0].text


def test_tokens_that_a_busy_machine_did_not_draft_are_no_change_of_acceptance() -> None:
    """Shorter drafts have a higher rate; the tokens drafted first are accepted as often as before."""
    before, after = measured(), measured(seed=1)
    for record in after["runs"]:
        if record["contender"] == "model":
            record |= {"drafted_tokens": 5, "accepted_tokens": 4}
            record |= {"drafted_lengths": [0, 10], "accepted_lengths": [0, 4]}
    assert compare_reports(before, after) == []


def test_with_a_fixed_draft_length_one_round_more_is_found() -> None:
    """Then rounds do not depend on time, so they have no noise."""
    after = measured(k=3)
    after["runs"][1]["rounds"] += 1
    assert kinds(compare_reports(measured(k=3), after)) == [("acceptance", "model", True)]
    assert compare_reports(measured(), after) == []


def test_too_few_prompts_to_compare_speed_are_reported() -> None:
    before, after = measured(), measured(gain=1.0)
    for report in (before, after):
        report["runs"] = report["runs"][:8]
    (change,) = compare_reports(before, after)
    assert (change.kind, change.worse) == ("speed", False)
    assert change.text == "is not compared: 4 prompts in common, 6 are needed"


def test_reports_without_a_contender_in_common_are_refused() -> None:
    before = measured()
    before["overall"] = {f"old {name}": figures for name, figures in before["overall"].items()}
    with pytest.raises(UsageError, match="the baseline measured other contenders"):
        compare_reports(before, measured())


def _other_suite(report: dict[str, Any]) -> None:
    report["suite"] = "4567"


def _other_length(report: dict[str, Any]) -> None:
    report["settings"]["max_new_tokens"] = 9


def _no_runs(report: dict[str, Any]) -> None:
    del report["runs"]


@pytest.mark.parametrize("spoil", [_other_suite, _other_length, _no_runs])
def test_what_cannot_be_compared_is_refused(spoil: Callable[[dict[str, Any]], None]) -> None:
    before = measured()
    spoil(before)
    with pytest.raises(UsageError, match="baseline"):
        compare_reports(before, measured())
