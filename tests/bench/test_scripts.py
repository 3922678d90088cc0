"""The scripts in docs/bench/ run, and their figures are plausible."""

import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from specgen.core.types import Dtype, EngineOptions, Quant
from specgen.nn.kernels import support
from tests.bench.fake_runs import FakeContender, measurement, run, whole_report

SCRIPTS = Path(__file__).parents[2] / "docs" / "bench"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    return import_module


@pytest.mark.parametrize("name", sorted(path.name for path in SCRIPTS.glob("*.py")))
def test_every_script_finds_what_it_imports(script: Any, name: str) -> None:
    assert callable(getattr(script(name.removesuffix(".py")), "main", print))


@pytest.mark.parametrize(("quant", "most"), [(Quant.NONE, 0.0), (Quant.INT8, 0.02), (Quant.INT4, 0.1)])
def test_fidelity_is_exact_in_float32_and_near_in_fewer_bits(script: Any, quant: Quant, most: float) -> None:
    if quant is not Quant.NONE and support.find_fault():
        pytest.skip("this processor runs no compiled kernels")
    options = EngineOptions(quant=quant, dtype=Dtype.FLOAT32, threads=1)
    load = script("texts").load
    exact, rounded = (
        load("bundled:stories/target", "none", each) for each in (replace(options, quant=Quant.NONE), options)
    )
    found = script("fidelity").compare(exact, rounded)
    assert found.tokens > 1000
    if quant is Quant.NONE:
        assert (found.divergence, found.perplexity) == (0.0, found.perplexity_float32)
    else:
        assert 0.0 < found.divergence < min(most, found.worst)
        assert abs(found.perplexity / found.perplexity_float32 - 1.0) < most


def test_coupling_is_near_its_bound(script: Any) -> None:
    pair = script("texts").load("stories", "auto", EngineOptions(threads=1))
    found = script("coupling").measure_coupling(pair, "prose")
    assert found.tokens >= 511
    assert 0.8 < found.accepted / found.bound < 1.05


def test_hindsight_compares_auto_with_the_best_length_of_each_category(script: Any) -> None:
    names = ["plain", "model k=auto", "model k=1", "model k=2"]
    speeds = {"chat": (9.0, 18.0, 20.0, 10.0), "code": (9.0, 40.0, 30.0, 50.0)}
    runs = [
        run(name, category, measurement(speed), category=category)
        for category, each in speeds.items()
        for name, speed in zip(names, each, strict=True)
    ]
    table = script("hindsight").hindsight(whole_report([FakeContender(name, []) for name in names], runs))
    assert list(table) == ["model"]
    assert (table["model"]["chat"]["best_k"], table["model"]["code"]["best_k"]) == (1, 2)
    assert table["model"]["chat"]["share"] == pytest.approx(0.9)
    assert table["model"]["code"]["share"] == pytest.approx(0.8)
    assert table["model"]["overall"]["best_k"] == 2
    assert table["model"]["code"]["tokens_per_second"] == pytest.approx({"auto": 40, "1": 30, "2": 50})


def test_start_up_takes_time(script: Any) -> None:
    assert script("startup").seconds_to_first_byte([sys.executable, "-S", "-c", "print('x')"]) > 0
    done = subprocess.run([sys.executable, SCRIPTS / "startup.py", "-m", "no-such"], capture_output=True, check=False)
    assert done.returncode == 5
