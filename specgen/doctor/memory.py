"""Memory: how much, and how fast it is read, which is what a forward pass waits for."""

import psutil
import torch

from specgen.bench.roofline import bandwidth
from specgen.core.words import format_bytes
from specgen.doctor.finding import Finding, Verdict

_LITTLE = 2 << 30
# Large enough to leave the caches of most processors, and read in a fraction of a second.
_READ = 256 << 20
_READS = 4
_SLOW = 8e9


def check_memory() -> Finding:
    memory = psutil.virtual_memory()
    found = f"{format_bytes(memory.available)} free of {format_bytes(memory.total)}"
    if memory.available < _LITTLE:
        return Finding("memory", Verdict.WARN, found, "close something, or take a small model: -m stories needs little")
    return Finding("memory", Verdict.OK, found)


def check_bandwidth() -> Finding:
    """A short measurement on the processor; specgen bench --roofline takes longer and compares models with it."""
    read = bandwidth(torch.device("cpu"), _READ, _READS)
    found = f"{read / 1e9:.1f} GB/s read, so that a model of 1 GB writes at most {read / 1e9:.0f} tok/s by itself"
    if read < _SLOW:
        return Finding("bandwidth", Verdict.WARN, found, "is something else running? otherwise take a smaller model")
    return Finding("bandwidth", Verdict.OK, found)
