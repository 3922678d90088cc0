"""specgen tune: kept, shown, dropped; over a tiny pair whose speeds are made up."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from specgen.bench.measure import Measurement
from specgen.bench.tuning import Setting
from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.types import ModelRef, Quant
from specgen.nn.kernels.int8 import choose_kernel
from specgen.tuned import Tuned, machine, save, weights
from tests.bench.made_up import measurement
from tests.cli.command import Outcome, invoke


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[int | None, float]:
    """Draft length -> tokens a second."""
    monkeypatch.setenv("SPECGEN_DATA_DIR", str(tmp_path / "data"))
    made: dict[int | None, float] = {}

    def answer(self: Setting, prompt: Sequence[int], new: int) -> Measurement:
        return measurement(made.get(self.draft_length, 10.0))

    monkeypatch.setattr(Setting, "run", answer)
    return made


@pytest.fixture
def names(checkpoints: Any) -> list[object]:
    return [checkpoints.target("llama"), "-d", checkpoints.draft("llama")]


def tune(names: list[object], *arguments: object) -> Outcome:
    return invoke("tune", *names, "--threads", 1, "--quant", "none", "--dtype", "float32", *arguments)


def test_what_is_kept_is_said_shown_used_and_dropped(speeds: Any, names: list[object]) -> None:
    speeds[4] = 13.0
    outcome = tune(names)
    assert outcome.code == 0, outcome.err
    assert "kept: -k 4 (1.30 times as fast as the defaults)" in outcome.text
    run = ["run", "-m", *names, "--raw", "--temp", 0, "-n", 2, "--json", "the fox"]
    assert '"num_draft_tokens": 4' in invoke(*run).text
    assert '"num_draft_tokens": null' in invoke(*run, "-k", "auto").text
    assert '"num_draft_tokens": null' in invoke(*run, "--no-tuned").text
    assert "tuned           -k 4 (1.30 times" in invoke("show", names[0]).text
    (shown,) = json.loads(invoke("show", names[0], "--json").text)["tuned"]
    assert (shown["num_draft_tokens"], shown["unused"]) == (4, None)
    assert "dropped: -k 4" in invoke("tune", *names, "--reset").text
    assert invoke("tune", *names, "--reset").text == "nothing was tuned for it\n"
    assert '"num_draft_tokens": null' in invoke(*run).text


def test_a_setting_goes_before_it(speeds: Any, names: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    speeds[4] = 13.0
    tune(names)
    monkeypatch.setenv("SPECGEN_NUM_DRAFT_TOKENS", "auto")
    run = invoke("run", "-m", *names, "--raw", "--temp", 0, "-n", 2, "--json", "the fox")
    assert '"num_draft_tokens": null' in run.text


def test_json_has_every_race_and_what_is_kept(speeds: Any, names: list[object]) -> None:
    speeds[2] = 12.0
    report = json.loads(tune(names, "--json").text)
    assert [result["options"] for result in report["races"]["num_draft_tokens"]] == ["-k 2", "-k 4", "-k 8"]
    assert report["last"]["speed_up"] == pytest.approx(1.2)
    assert report["tuned"]["num_draft_tokens"] == 2
    assert Path(report["file"]).is_file()


def test_the_defaults_stay_where_nothing_is_better(speeds: Any, names: list[object]) -> None:
    assert "Nothing is better than the defaults beyond noise: they stay." in tune(names).text
    assert "tuned           the defaults" in invoke("show", names[0]).text


def test_ctrl_c_keeps_nothing_and_leaves_what_was_kept(
    speeds: Any, names: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds[4] = 13.0
    tune(names)

    def interrupt(*_: object) -> Measurement:
        raise KeyboardInterrupt

    monkeypatch.setattr(Setting, "run", interrupt)
    outcome = tune(names)
    assert (outcome.code, outcome.text) == (130, "")
    assert "specgen: interrupted: nothing of this was kept" in outcome.err
    assert "-k 4" in invoke("show", names[0]).text


def test_what_makes_no_sense_is_one_line(speeds: Any, names: list[object]) -> None:
    assert invoke("tune").code == 2
    outcome = invoke("tune", *names, "-m", "stories")
    assert (outcome.code, "leave one out" in outcome.err) == (2, True)
    outcome = invoke("tune", names[0], "-d", "none")
    assert (outcome.code, "nothing to tune" in outcome.err) == (2, True)


@pytest.mark.skipif(choose_kernel() is None, reason="this processor has no exact int8 kernel")
def test_a_benchmark_measures_what_its_command_line_says(speeds: Any, names: list[object], checkpoints: Any) -> None:
    target, draft = (Checkpoint(ModelRef(str(each)), each) for each in (names[0], names[2]))
    found = (4, True, None, Quant.INT8, 2.0, (1.9, 2.1), "2026-11-24", "1")
    save(Tuned(weights(target), weights(draft), machine(torch.device("cpu")), *found))
    run = invoke("run", "-m", *names, "--raw", "--temp", 0, "-n", 2, "--json", "the fox")
    assert '"quant": "int8"' in run.text
    bench = invoke("bench", "-m", *names, "-n", 2, "--category", "chat", "--prompts", 1, "--drafters", "none", "--json")
    report = json.loads(bench.text)
    assert (report["target"]["quant"], report["settings"]["engine"]["num_draft_tokens"]) == ("none", None)
