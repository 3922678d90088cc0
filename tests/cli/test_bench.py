"""specgen bench: the whole of it on the bundled pair, small."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Outcome, invoke


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    """specgen bench on two short prompts, four new tokens."""
    suite = tmp_path / "suite.jsonl"
    suite.write_text('{"prompt": "Once upon a time", "category": "tale"}\n{"prompt": "The fox", "category": "fable"}\n')

    def specgen(*arguments: object) -> Outcome:
        return invoke("bench", "-m", "stories", "--threads", 1, "-n", 4, "-k", 3, "--suite", suite, *arguments)

    return specgen


def test_the_table_goes_to_stdout_and_nothing_else_is_said(bench: Any) -> None:
    outcome = bench()
    assert (outcome.code, outcome.err) == (0, "")
    assert "target bundled:stories/target" in outcome.text
    assert [line.split()[0] for line in outcome.text.splitlines() if "x plain" in line] == ["overall", "tale", "fable"]
    assert "identical output" in outcome.text


def test_json_holds_everything_needed_to_run_it_again(bench: Any) -> None:
    outcome = bench("--json", "--repeat", 2, "--temp", 0.8, "--seed", 3, "--drafters", "model", "--category", "tale")
    report = json.loads(outcome.text)
    assert (outcome.code, outcome.err) == (0, "")
    assert report["format"] == 3
    assert report["target"]["id"] == "bundled:stories/target"
    assert report["machine"]["threads"] == 1
    assert report["settings"]["sampling"]["seed"] == 3
    assert report["settings"]["engine"]["num_draft_tokens"] == 3
    assert list(report["categories"]) == ["tale"]
    assert report["identical"] is True
    places = [(run["prompt"], run["repetition"], run["contender"]) for run in report["runs"]]
    assert places == [("1", repetition, name) for repetition in (0, 1) for name in ("plain", "model")]
    assert report["peak_memory_bytes"] > 1e6
    paces = [run["pace_s"] for run in report["runs"]]
    assert paces[0] == paces[1] > 0
    assert paces[0] != paces[2], "measured before each turn"
    assert "roofline" not in report


def test_the_peer_runs_beside_it(bench: Any) -> None:
    outcome = bench("--json", "--peer", "transformers", "--peer-dtype", "float32", "--prefill", 20)
    report = json.loads(outcome.text)
    assert (outcome.code, outcome.err) == (0, "")
    assert list(report["overall"])[-3:] == ["transformers plain", "transformers assisted", "transformers lookup"]
    assert report["overall"]["plain"]["over_peer"]["transformers"] > 0
    lengths = {(run["prompt"], run["generated_tokens"]) for run in report["runs"]}
    assert len(lengths) == 2, "every contender wrote as many tokens of a prompt"
    assert report["prefill"]["tokens"] == 20
    assert set(report["prefill"]["seconds"]) == {"specgen", "transformers"}


def test_the_roofline_covers_both_models(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specgen.bench.roofline._READ", 1 << 16)
    report = json.loads(bench("--json", "--roofline", "--category", "tale").text)
    assert list(report["roofline"]["models"]) == ["target", "draft"]


def test_a_prompt_that_is_too_long_is_cut_and_said_so(bench: Any) -> None:
    outcome = bench("--ctx-size", 6, "--json")
    assert "are too long: the last 2 tokens of each are read" in " ".join(outcome.err.split())
    assert {run["prompt_tokens"] for run in json.loads(outcome.text)["runs"]} == {2}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--suite", "no-such"], 10, "cannot read no-such"),
        (["--category", "prose"], 2, "no category 'prose'; there is: tale, fable"),
        (["--drafters", "model,magic"], 2, "no drafter 'magic'; there is: none, model, lookup, hybrid"),
        (["-d", "lookup", "--drafters", "model"], 2, "no drafter 'model'; there is: plain, lookup"),
        (["--peer", "transformers", "--temp", "1"], 2, "--peer compares greedy decoding only"),
        (["--prefill", "100000"], 2, "--prefill 100000 is more than the context of 512"),
        (["-n", "512"], 2, "-n 512 leaves no room"),
    ],
)
def test_what_cannot_be_measured_is_one_line(bench: Any, arguments: list[str], code: int, message: str) -> None:
    outcome = bench(*arguments)
    assert (outcome.code, outcome.out) == (code, b"")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_no_model_is_a_usage_error() -> None:
    assert invoke("bench").code == 2
