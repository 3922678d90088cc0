"""Meters of peak memory, energy and machine speed."""

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RAPL = Path("/sys/class/powercap")
_WIDTH = 2048  # of a square float32 matrix of 16 MiB, as large as the weights of a small model
_PASSES = 8


class EnergyCounter(Protocol):
    """A cumulative energy counter."""

    def joules(self) -> float:
        """Joules counted so far. The counter restarts at zero after `wraps_at` joules."""

    @property
    def wraps_at(self) -> float | None: ...


class Rapl:
    """Energy of a processor package or its memory, from Linux powercap. Often only root may read it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "energy_uj"
        self.wraps_at: float | None = int((folder / "max_energy_range_uj").read_text()) / 1e6
        self.joules()

    def joules(self) -> float:
        return int(self._file.read_text()) / 1e6


class Nvml:
    """Energy of an NVIDIA GPU since its driver was loaded, updated every 0.1 s or less."""

    wraps_at = None

    def __init__(self, index: int) -> None:
        import pynvml  # noqa: PLC0415 - an extra

        pynvml.nvmlInit()
        self._read = pynvml.nvmlDeviceGetTotalEnergyConsumption
        # By UUID: NVML and CUDA number the GPUs in different orders.
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(index).uuid}")
        self.joules()

    def joules(self) -> float:
        return int(self._read(self._handle)) / 1e3


def energy_counters(device: str) -> list[EnergyCounter]:
    """Readable counters of the processor packages, their memory and, on CUDA, the current GPU.

    Counters of cores, graphics and psys are left out: they overlap with a package.
    """
    counters: list[EnergyCounter] = []
    for folder in sorted(_RAPL.glob("intel-rapl:*")):
        with contextlib.suppress(OSError, ValueError):
            if (folder / "name").read_text().strip().startswith(("package", "dram")):
                counters.append(Rapl(folder))
    if device == "cuda":
        with contextlib.suppress(Exception):  # no library, no driver or no counter: each has its own class
            counters.append(Nvml(torch.cuda.current_device()))
    return counters


class EnergyMeter:
    """Joules between `start` and `stop`, summed over all counters."""

    def __init__(self, counters: Sequence[EnergyCounter]) -> None:
        self._counters = counters
        self._before: list[float] = []

    def start(self) -> None:
        self._before = [counter.joules() for counter in self._counters]

    def stop(self) -> float | None:
        """Joules since `start`. None without counters."""
        if not self._counters:
            return None
        spent = 0.0
        for counter, before in zip(self._counters, self._before, strict=True):
            since = counter.joules() - before
            spent += since + counter.wraps_at if since < 0 and counter.wraps_at else max(0.0, since)
        return spent


class PeakMemory:
    """Peak memory between `start` and `stop`: of the device on CUDA, otherwise of this process (Linux only)."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"

    def start(self) -> None:
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            return
        with contextlib.suppress(OSError), _CLEAR.open("w") as file:
            file.write("5")  # resets the peak to the present value

    def stop(self) -> int | None:
        """Peak bytes since `start`. None if the system does not report it."""
        if self._cuda:
            return torch.cuda.max_memory_allocated()
        if not os.access(_CLEAR, os.W_OK):
            return None
        with contextlib.suppress(OSError):
            for line in _STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return None


class SpeedProbe:
    """Times fixed work, independent of specgen, to detect a change in machine speed."""

    def __init__(self, device: torch.device) -> None:
        self._matrix = torch.ones(_WIDTH, _WIDTH, device=device)
        self._vector = torch.ones(_WIDTH, device=device)
        self.seconds()

    def seconds(self) -> float:
        """Seconds that the fixed work takes now."""
        start = time.perf_counter()
        for _ in range(_PASSES):
            product = torch.mv(self._matrix, self._vector)
        product[0].item()
        return time.perf_counter() - start
