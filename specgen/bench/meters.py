"""What an answer took beside time: memory at its peak, and energy, where this machine tells; and the machine's pace."""

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
# A pass over the weights of a small model, several times: 16 MB of float32.
_WIDTH = 2048
_PASSES = 8


class Counter(Protocol):
    """Something that counts energy from some moment on."""

    def joules(self) -> float:
        """What it has counted so far. It may begin again at `wraps_at`."""

    @property
    def wraps_at(self) -> float | None: ...


class Rapl:
    """A processor's package, or the memory at it, as Linux shows it (powercap); often only root may read it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "energy_uj"
        self.wraps_at: float | None = int((folder / "max_energy_range_uj").read_text()) / 1e6
        self.joules()

    def joules(self) -> float:
        return int(self._file.read_text()) / 1e6


class Nvml:
    """An NVIDIA GPU, since its driver was loaded. It counts in steps of up to 0.1 s."""

    wraps_at = None

    def __init__(self, index: int) -> None:
        import pynvml  # noqa: PLC0415 - an extra

        pynvml.nvmlInit()
        self._ask = pynvml.nvmlDeviceGetTotalEnergyConsumption
        # By name: NVML counts all GPUs in the order of their slots, CUDA those that are visible in an order of its own.
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(index).uuid}")
        self.joules()

    def joules(self) -> float:
        return int(self._ask(self._handle)) / 1e3


def energy_counters(device: str) -> list[Counter]:
    """Packages of the processor and their memory, as far as they can be read, and on CUDA the current GPU.

    Cores and graphics are parts of a package, psys holds all of the platform: neither is counted beside it.
    """
    counters: list[Counter] = []
    for folder in sorted(_RAPL.glob("intel-rapl:*")):
        with contextlib.suppress(OSError, ValueError):
            if (folder / "name").read_text().strip().startswith(("package", "dram")):
                counters.append(Rapl(folder))
    if device == "cuda":
        with contextlib.suppress(Exception):  # no library, no driver, a GPU without a counter: it has a class for each
            counters.append(Nvml(torch.cuda.current_device()))
    return counters


class Energy:
    """Joules between two moments, all counters together."""

    def __init__(self, counters: Sequence[Counter]) -> None:
        self._counters = counters
        self._before: list[float] = []

    def start(self) -> None:
        self._before = [counter.joules() for counter in self._counters]

    def stop(self) -> float | None:
        """Since `start`; None without counters."""
        if not self._counters:
            return None
        spent = 0.0
        for counter, before in zip(self._counters, self._before, strict=True):
            since = counter.joules() - before
            spent += since + counter.wraps_at if since < 0 and counter.wraps_at else max(0.0, since)
        return spent


class Memory:
    """The peak between two moments: of this process on a CPU (Linux alone tells), of the device on CUDA."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"

    def start(self) -> None:
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            return
        with contextlib.suppress(OSError), _CLEAR.open("w") as file:
            file.write("5")  # sets the peak back to what is held now

    def stop(self) -> int | None:
        """Bytes; None where nobody tells."""
        if self._cuda:
            return torch.cuda.max_memory_allocated()
        if not os.access(_CLEAR, os.W_OK):
            return None
        with contextlib.suppress(OSError):
            for line in _STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return None


class Pace:
    """The speed of the machine at a moment: the same work every time, none of it specgen's."""

    def __init__(self, device: torch.device) -> None:
        self._matrix = torch.ones(_WIDTH, _WIDTH, device=device)
        self._vector = torch.ones(_WIDTH, device=device)
        self.seconds()

    def seconds(self) -> float:
        start = time.perf_counter()
        for _ in range(_PASSES):
            product = torch.mv(self._matrix, self._vector)
        product[0].item()
        return time.perf_counter() - start
