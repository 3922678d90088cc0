"""When another process would do the same, and when a process may stay behind."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from specgen.cli.options import seconds
from specgen.core.errors import UsageError
from specgen.serve.background.fingerprint import Fingerprint
from specgen.serve.background.process import can_launch
from tests.cli.command import Stdin, invoke


def test_the_environment_counts_where_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Fingerprint.own()
    assert Fingerprint.own() == before
    for name in ("SPECGEN_TEMP", "SPECGEN_API_KEY", "XDG_SESSION_ID", "COLUMNS"):
        monkeypatch.setenv(name, "1")
    assert Fingerprint.own() == before
    for name in ("HF_HOME", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "https_proxy", "HOME", "SPECGEN_CONFIG_DIR"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "another")
            assert Fingerprint.own() != before
            assert replace(Fingerprint.own(), environment=before.environment) == before


def test_an_interpreter_has_several_names(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Fingerprint.own()
    monkeypatch.setattr(sys, "executable", f"{sys.executable}3")
    assert Fingerprint.own() == before
    monkeypatch.setattr(sys, "prefix", "/another/environment")
    assert Fingerprint.own() != before


def test_what_is_newer() -> None:
    one = Fingerprint("0.9.1", "here", 5, "x")
    assert replace(one, version="0.10.0", location="there", changed=1).is_newer_than(one)
    assert replace(one, changed=6).is_newer_than(one)
    for other in (
        one,
        replace(one, location="there", changed=6),
        replace(one, environment="y"),
        replace(one, changed=4),
    ):
        assert not other.is_newer_than(one)


def test_a_job_without_terminal_and_home_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("specgen.serve.background.endpoint.user_runtime_path", lambda *_, **__: tmp_path / "runtime")
    monkeypatch.setattr(sys, "stdin", Stdin(b""))
    assert can_launch()
    monkeypatch.delenv("HOME")
    assert not can_launch()
    monkeypatch.setattr(sys, "stdin", Stdin(None))
    assert can_launch()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_nor_does_one_whose_runtime_folder_is_closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.setattr("specgen.serve.background.endpoint.user_runtime_path", lambda *_, **__: tmp_path / "runtime")
    assert not can_launch()


@pytest.mark.parametrize(
    ("text", "long"), {"30s": 30, "5m": 300, "1h": 3600, "2": 120, "0.5": 30, "0": 0, "off": 0}.items()
)
def test_times(text: str, long: float) -> None:
    assert seconds(text) == long


@pytest.mark.parametrize("text", ["", "soon", "-1", "5 m", "1d", "nan"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="give a time"):
        seconds(text)
    assert invoke("-m", "stories", "--keep-alive", text, "hello").code == 2
