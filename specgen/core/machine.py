"""The machine: its processor, its memory, and the peak memory of this process."""

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from specgen import __version__


def describe_machine(*, accelerator: str | None, threads: int) -> dict[str, Any]:
    """Processor, cores, memory in bytes, versions. None for a value that this system does not report.

    `accelerator` is the name of the GPU in use, `threads` the number of compute threads.
    """
    return {
        "processor": processor_name(),
        "cores": cores(),
        "memory_bytes": _memory(),
        "accelerator": accelerator,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "threads": threads,
        "specgen": __version__,
    }


def peak_memory() -> int | None:
    """Peak resident memory of this process in bytes, resident pages of mapped files included."""
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - not on Windows

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def cores() -> int:
    """Number of logical processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
