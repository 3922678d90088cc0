"""specgen doctor."""

import json
from pathlib import Path

import pytest

from tests.cli.command import invoke


@pytest.fixture(autouse=True)
def small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specgen.doctor._READ", 1 << 16)


def test_every_check_has_a_verdict_and_a_warning_says_what_to_do() -> None:
    outcome = invoke("doctor", "--offline", "--json")
    report = json.loads(outcome.text)
    assert (outcome.code, outcome.err) == (0, "")
    names = [check["check"] for check in report["checks"]]
    assert names == [
        "torch", "processor", "threads", "memory", "bandwidth", "kernels", "rounding", "gpu", "cuda graphs", "triton",
        "model cache", "packed weights", "history", "config", "hub",
    ]  # fmt: skip
    assert all(check["advice"] for check in report["checks"] if check["verdict"] != "ok")


def test_a_line_a_check() -> None:
    outcome = invoke("doctor", "--offline")
    assert outcome.code == 0
    assert [line.split()[1] for line in outcome.text.splitlines() if not line.startswith(" ")][:2] == [
        "torch",
        "processor",
    ]


def test_what_breaks_fails_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that cannot be loaded, say: the other checks go on."""

    def broken() -> None:
        raise ImportError("libtorch_cuda.so: no such file\nand more")

    monkeypatch.setattr("specgen.doctor.check_gpu", broken)
    outcome = invoke("doctor", "--offline", "--json")
    report = json.loads(outcome.text)
    assert (outcome.code, report["verdict"], len(report["checks"])) == (1, "fail", 15)
    (failed,) = [check for check in report["checks"] if check["verdict"] == "fail"]
    assert failed["found"] == "ImportError: libtorch_cuda.so: no such file"
    assert failed["advice"]


def test_a_broken_settings_file_is_found_and_stops_nothing(no_user_settings: Path) -> None:
    (no_user_settings / "config.toml").write_text("modle = 'stories'")
    outcome = invoke("doctor", "--offline", "--json")
    report = json.loads(outcome.text)
    (failed,) = [check for check in report["checks"] if check["verdict"] == "fail"]
    assert (outcome.code, failed["check"], len(report["checks"])) == (1, "config", 15)
    assert "modle" in failed["found"]
    assert "model" in failed["advice"]
