"""specgen bench over time: baselines, comparisons, files, and what happens to planted faults."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from specgen.bench.contenders import OwnContender
from specgen.bench.measure import Measurement, TimedModel
from specgen.core.tokens import Tokens
from specgen.engine import decode
from specgen.engine.drafters.interface import DraftPlan, Proposal
from specgen.engine.drafters.model import ModelDrafter
from specgen.engine.verify import Verdict, verify
from specgen.nn.interface import ForwardCall
from specgen.render.progress import ProgressLine
from tests.cli.command import Outcome, invoke

BEGINNINGS = ["Once upon a time", "The fox", "A girl named Lily", "One day", "The sun was", "Tom had a red"]


class Clock:
    """Time that passes only in forward passes, 1 ms each, and where a test lets it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    forward_many = TimedModel.forward_many

    def timed(self: TimedModel, calls: Sequence[ForwardCall]) -> list[torch.Tensor]:
        made.now += 0.001
        return forward_many(self, calls)

    monkeypatch.setattr(time, "perf_counter", made)
    monkeypatch.setattr(TimedModel, "forward_many", timed)
    return made


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """specgen bench of the draft alone, three tokens a round, on six prompts; baselines are the test's own."""
    monkeypatch.setattr("specgen.bench.files.baseline_folder", lambda: tmp_path / "baselines")
    suite = tmp_path / "suite.jsonl"
    suite.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in BEGINNINGS))

    def specgen(*arguments: object) -> Outcome:
        common = ("-m", "stories", "--threads", 1, "-n", 12, "-k", 3, "--suite", suite, "--drafters", "model")
        return invoke("bench", *common, *arguments)

    return specgen


ALL = ("--fail-on", "speed,acceptance,output")


def test_nothing_changed_is_said_and_is_no_failure(bench: Any, clock: Clock) -> None:
    assert bench("--save-baseline", "before").code == 0
    again = bench("--compare", "before", *ALL)
    assert (again.code, again.err) == (0, "")
    assert again.text.endswith("no change beyond noise since before\n")


def test_a_planted_slow_draft_and_a_planted_wrong_token_are_caught(
    bench: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench("--save-baseline", "before").code == 0
    propose = ModelDrafter.propose

    def slowly(self: ModelDrafter, context: Tokens, plan: DraftPlan) -> Proposal:
        clock.now += 0.002
        return propose(self, context, plan)

    with monkeypatch.context() as planted:
        planted.setattr(ModelDrafter, "propose", slowly)
        slow = bench("--compare", "before", *ALL)
        assert slow.code == 1
        assert "WORSE   speed      model: speed-up over plain decoding" in slow.text
        assert "output     " not in slow.text
        assert bench("--compare", "before", "--fail-on", "output").code == 0
        assert bench("--compare", "before").code == 0

    def trusting(proposal: Proposal, picks: Sequence[int]) -> Verdict:
        if len(picks) == 4 and proposal.tokens[0] != picks[0]:
            picks = [proposal.tokens[0], *picks[1:]]
        return verify(proposal, picks)

    with monkeypatch.context() as planted:
        planted.setattr(decode, "verify", trusting)
        wrong = bench("--compare", "before", *ALL, "--json")
        assert wrong.code == 1
        assert "WORSE   output     model: " in wrong.err
        changes = json.loads(wrong.text)["comparison"]["changes"]
        assert {"output"} <= {change["kind"] for change in changes if change["worse"]}


@pytest.mark.parametrize("where", ["in an answer", "while progress is shown"])
def test_ctrl_c_leaves_a_report_of_what_was_measured(
    bench: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    """In the third turn, when plain decoding has answered: two turns are whole."""
    assert bench("--save-baseline", "before").code == 0
    show, run = ProgressLine.show, OwnContender.run
    third = [False]

    def showing(self: ProgressLine, event: Any) -> None:
        third[0] = getattr(event, "what", "").startswith("prompt 3 of 6 (other): model")
        if third[0] and where != "in an answer":
            raise KeyboardInterrupt
        show(self, event)

    def running(self: OwnContender, *arguments: Any) -> Measurement:
        if third[0]:
            raise KeyboardInterrupt
        return run(self, *arguments)

    monkeypatch.setattr(ProgressLine, "show", showing)
    monkeypatch.setattr(OwnContender, "run", running)
    outcome = bench("--save-baseline", "half", "--roofline", "--output", tmp_path / "report.csv")
    assert outcome.code == 130
    assert "PARTIAL: interrupted after 2 of 6 turns" in outcome.text
    assert "what was measured so far; it is not saved as 'half'" in outcome.err
    assert '"turns": 2' in (tmp_path / "report.csv").read_text().replace('""', '"')
    assert "there is: before" in bench("--compare", "half").err
    report = json.loads(bench("--compare", "before", "--json").text)
    assert (report["interrupted"], len(report["runs"])) == ({"turns": 2, "of": 6}, 4)
    assert [change["text"] for change in report["comparison"]["changes"]] == [
        "is not compared: 2 prompts in common, 6 are needed"
    ]


def test_ctrl_c_before_anything_was_measured_has_no_report(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> Measurement:
        raise KeyboardInterrupt

    monkeypatch.setattr(OwnContender, "run", interrupt)
    outcome = bench()
    assert (outcome.code, outcome.out) == (130, b"")


def test_a_report_that_cannot_be_compared_is_shown_all_the_same(bench: Any, clock: Clock) -> None:
    assert bench("--save-baseline", "before", "-n", 4).code == 0
    other = bench("--compare", "before", "-n", 5)
    assert (other.code, "identical output" in other.text) == (2, True)
    assert "measured with another number of new tokens; --rerun FILE" in other.err


def test_a_report_is_run_again_from_its_file(bench: Any, tmp_path: Path) -> None:
    assert bench("--output", tmp_path / "report.html", "--repeat", 2, "--seed", 9, "--temp", 0.5).code == 0
    again = invoke("bench", "--rerun", tmp_path / "report.html", "--compare", tmp_path / "report.html", "-o", "jsonl")
    assert again.code == 0
    header, *runs = map(json.loads, again.text.splitlines())
    assert (header["settings"]["repeat"], header["settings"]["sampling"]["seed"], len(runs)) == (2, 9, 24)
    assert [change for change in header["comparison"]["changes"] if change["kind"] != "speed"] == []


def test_a_sweep_compares_everything_in_one_run(bench: Any) -> None:
    outcome = bench(
        "--sweep", "k=1..2", "--sweep", "temp=0,0.8", "--sweep", "dtype=float32,bfloat16", "--json", "-n", 4
    )
    report = json.loads(outcome.text)
    assert outcome.code == 0, outcome.err
    assert len(report["overall"]) == 2 * 2 * (1 + 3)
    assert "model bfloat16 temp 0.8 k=2" in report["overall"]
    assert report["overall"]["model float32 temp 0 k=1"]["reference"] == "plain float32 temp 0"
    assert {each["target"]["dtype"] for each in report["number_formats"].values()} == {"float32", "bfloat16"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--fail-on", "speed"], 2, "--fail-on needs a baseline; add --compare NAME"),
        (["--compare", "none"], 2, "there is no baseline or file 'none'; save one with --save-baseline NAME"),
        (
            ["--compare", "x", "--fail-on", "spede"],
            2,
            "--fail-on has no kind 'spede'; there is: speed, acceptance, output",
        ),
        (["--save-baseline", "../up"], 2, "'../up' is not a valid baseline name"),
        (["--output", "report.pdf"], 2, "report.pdf has an unknown ending"),
        (["--output", "no/such/report.md"], 10, "there is no folder no/such"),
        (["--rerun", "report.json"], 2, "--rerun and --model conflict"),
        (["--peer", "vllm"], 2, "there is no peer 'vllm'; there is: transformers, llama.cpp=PATH"),
        (["--peer", "llama.cpp=/none"], 2, "llama.cpp needs .gguf files; give the same models with --peer-gguf"),
        (["--sweep", "k=0"], 2, "--sweep k has an invalid value"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_measured(
    bench: Any, arguments: list[str], code: int, message: str
) -> None:
    outcome = bench(*arguments)
    assert (outcome.code, outcome.out) == (code, b"")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
