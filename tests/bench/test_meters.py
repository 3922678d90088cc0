"""Meters of memory and energy."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from specgen.bench import meters
from specgen.bench.meters import EnergyMeter, PeakMemory, energy_counters

CPU = torch.device("cpu")


@pytest.fixture
def rapl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package counter at 2 J that restarts after 10 J, and the overlapping counters of its cores and the platform."""
    for name, of in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:1", "psys")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(f"{of}\n")
        (tmp_path / name / "energy_uj").write_text("2000000\n")
        (tmp_path / name / "max_energy_range_uj").write_text("10000000\n")
    monkeypatch.setattr(meters, "_RAPL", tmp_path)
    return tmp_path / "intel-rapl:0" / "energy_uj"


def test_energy_is_what_a_package_counted_meanwhile(rapl: Path) -> None:
    energy = EnergyMeter(energy_counters("cpu"))
    energy.start()
    rapl.write_text("9500000")
    assert energy.stop() == 7.5
    energy.start()
    rapl.write_text("1000000")
    assert energy.stop() == 1.5, "the counter began again"


def test_memory_counts_beside_the_package(rapl: Path) -> None:
    (rapl.parents[1] / "intel-rapl:0:0" / "name").write_text("dram\n")
    energy = EnergyMeter(energy_counters("cpu"))
    energy.start()
    rapl.write_text("3000000")
    (rapl.parents[1] / "intel-rapl:0:0" / "energy_uj").write_text("2500000")
    assert energy.stop() == 1.5


def test_without_a_counter_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rapl: Path) -> None:
    rapl.write_text("not for you")
    assert energy_counters("cpu") == []
    assert EnergyMeter([]).stop() is None


def test_a_gpu_counts_in_millijoules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([1000, 1000, 4000])
    library = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: {"GPU-0a1b-2c3d": "handle"}[uuid],
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(counts),
    )
    monkeypatch.setattr(meters, "_RAPL", tmp_path)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    gpus = ["0", "0a1b-2c3d"]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=gpus[index]))
    monkeypatch.setitem(sys.modules, "pynvml", library)
    energy = EnergyMeter(energy_counters("cuda"))
    energy.start()
    assert energy.stop() == 3.0
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy_counters("cuda") == []


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
def test_the_peak_of_memory_is_that_of_the_time_between() -> None:
    memory = PeakMemory(CPU)
    memory.start()
    before = memory.stop()
    held = torch.ones(30_000_000)
    peak = memory.stop()
    del held
    memory.start()
    after = memory.stop()
    assert before is not None
    assert peak is not None
    assert after is not None
    assert peak - before > 100e6 < peak - after
