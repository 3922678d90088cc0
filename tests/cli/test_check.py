"""specgen check: the whole of it on the bundled pair, small."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from specgen.check import check as checking
from specgen.check.check import check_pair
from specgen.check.difference import compare
from specgen.engine.drafters.interface import Proposal
from specgen.engine.verify import Verdict
from tests.cli.command import Outcome, invoke


@pytest.fixture
def check(tmp_path: Path) -> Any:
    """specgen check on three short prompts, eight new tokens."""
    suite = tmp_path / "suite.jsonl"
    prompts = [("Once upon a time", "tale"), ("One day a girl", "tale"), ("The fox", "fable")]
    suite.write_text("".join(json.dumps({"prompt": text, "category": kind}) + "\n" for text, kind in prompts))

    def specgen(*arguments: object) -> Outcome:
        return invoke("check", "-m", "stories", "--threads", 1, "-n", 8, "-k", 3, "--suite", suite, *arguments)

    return specgen


@pytest.fixture
def credulous(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that accepts whatever was drafted: speculation breaks the text."""

    def verify(proposal: Proposal, picks: Sequence[int]) -> Verdict:
        sources = (*proposal.sources, "bonus")
        return Verdict(proposal, len(proposal.tokens), (*proposal.tokens, picks[-1]), sources)

    monkeypatch.setattr("specgen.engine.decode.verify", verify)


def test_the_bundled_pair_is_identical(check: Any) -> None:
    outcome = check()
    assert (outcome.code, outcome.err) == (0, "")
    identical, drafting = outcome.text.splitlines()
    assert identical == "3 prompts x 3 samplings: identical"
    assert "acceptance rate" in drafting


def test_json_has_every_run(check: Any) -> None:
    outcome = check("--json", "--seeds", "3", "--prompts", 2, "--drafters", "model,lookup,history")
    report = json.loads(outcome.text)
    assert (outcome.code, outcome.err) == (0, "")
    assert (report["format"], report["complete"], report["identical"], report["differences"]) == (2, True, True, 0)
    assert report["pair"]["target"]["id"] == "bundled:stories/target"
    # Categories take turns.
    places = [(run["category"], run["seed"], run["drafter"]) for run in report["checked"]]
    drafters = ("model", "lookup", "history")
    assert places == [(kind, seed, name) for kind in ("tale", "fable") for seed in (None, 3) for name in drafters]
    assert sum(run["drafted_tokens"] for run in report["checked"]) > 0


@pytest.mark.usefixtures("credulous")
def test_a_real_difference_is_exit_code_1_and_a_line(check: Any) -> None:
    outcome = check("--temp", 2, "--seeds", "1", "--prompts", 1)
    assert (outcome.code, outcome.err) == (1, "")
    *different, closing, _ = outcome.text.splitlines()
    assert different
    assert all(line.startswith("DIFFERENT: prompt 1 (tale), ") for line in different)
    assert closing.startswith(f"1 prompt x 2 samplings: {len(different)} difference")
    report = check("--temp", 2, "--seeds", "1", "--prompts", 1, "--json")
    found = [run["difference"] for run in json.loads(report.text)["checked"] if not run["identical"]]
    assert report.code == 1
    assert len(found) == len(different)
    for each in found:
        assert each["plain"]["id"] != each["drafted"]["id"]
        assert each["tie"] is False
        assert each["noise"] == 0.0
        assert f"({each['plain']['id']}) without" in outcome.text


@pytest.mark.usefixtures("credulous")
def test_ties_alone_are_exit_code_0(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:

    def tied(*arguments: Any) -> Any:
        found = compare(*arguments)
        return found and dataclasses.replace(found, tie=True)

    monkeypatch.setattr(checking, "compare", tied)
    outcome = check("--temp", 2, "--seeds", "1", "--prompts", 1)
    assert outcome.code == 0
    assert outcome.text.startswith("tie: prompt 1 (tale), ")


def test_a_short_answer_is_drafted_too() -> None:
    """The adaptive draft length may draft nothing in so few tokens, so a check drafts a fixed number."""
    outcome = invoke("check", "-m", "stories", "--threads", 1, "-n", 16, "--temp", 0, "--json", "Once upon a time")
    report = json.loads(outcome.text)
    assert (outcome.code, report["identical"], report["pair"]["draft_length"]) == (0, True, 4)
    assert report["drafted_tokens"] > 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("-n", 1),  # one token comes from the prompt's pass
        ("--drafters", "lookup", "-n", 2, "--last", 2),  # nothing repeats
    ],
)
def test_a_check_that_compared_nothing_does_not_pass(check: Any, arguments: tuple[object, ...]) -> None:
    outcome = check(*arguments)
    assert (outcome.code, outcome.err) == (1, "")
    assert outcome.text.startswith("NOT CHECKED: 3 prompts x 3 samplings: nothing was drafted")
    assert "raise -n" in outcome.text
    report = json.loads(check(*arguments, "--json").text)
    assert (report["identical"], report["differences"], report["drafted_tokens"]) == (False, 0, 0)


def test_a_drafter_that_drafted_nothing_is_named(check: Any) -> None:
    outcome = check("--drafters", "model,lookup", "-n", 3, "--last", 2)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.text.splitlines()[-1] == "not checked: lookup, which drafted nothing"


def test_given_prompts_take_the_place_of_the_suite() -> None:
    outcome = invoke("check", "-m", "stories", "--threads", 1, "-n", 4, "--temp", 0, "Once", "The fox")
    assert (outcome.code, outcome.text.splitlines()[0]) == (0, "2 prompts x 1 sampling: identical")


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_ctrl_c_keeps_what_was_checked(check: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    def interrupted(*given: Any) -> Any:
        for number, event in enumerate(check_pair(*given)):
            if number == 4:
                raise KeyboardInterrupt
            yield event

    monkeypatch.setattr("specgen.check.check.check_pair", interrupted)
    outcome = check(*arguments)
    assert (outcome.code, outcome.err) == (130, "")
    if arguments:
        report = json.loads(outcome.text)
        assert (report["complete"], len(report["checked"])) == (False, 1)
    else:
        assert outcome.text.startswith("interrupted after 1 of 9 checks: identical")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--suite", "no-such"], 10, "cannot read no-such"),
        (["--category", "prose"], 2, "no category 'prose'; there is: tale, fable"),
        (["--drafters", "none"], 2, "no drafter 'none' to check; there is: model, lookup, hybrid, history"),
        (["-d", "none"], 2, "this pair drafts nothing"),
        (["--seeds", "1,x"], 2, "--seeds is '1,x'; give numbers separated by commas"),
        (["Once"], 2, "prompts and a suite exclude each other"),
    ],
)
def test_what_cannot_be_checked_is_one_line(check: Any, arguments: list[str], code: int, message: str) -> None:
    outcome = check(*arguments)
    assert (outcome.code, outcome.out) == (code, b"")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
