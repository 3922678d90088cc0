"""All checks, one after the other. A check that breaks is a finding too, and never keeps the others from running."""

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType

from specgen.core.events import Progress
from specgen.doctor.finding import Finding, Verdict

# Modules of this package with their checks. They are imported as they are needed: what a broken torch, or another
# broken library, keeps from being imported fails by itself.
_CHECKS: tuple[tuple[str, str, str], ...] = (
    ("build", "check_build", "torch"),
    ("processor", "check_processor", "processor"),
    ("processor", "check_threads", "threads"),
    ("memory", "check_memory", "memory"),
    ("memory", "check_bandwidth", "bandwidth"),
    ("build", "check_int8", "int8"),
    ("accelerator", "check_gpu", "gpu"),
    ("accelerator", "check_graphs", "cuda graphs"),
    ("caches", "check_models", "model cache"),
    ("caches", "check_packed", "packed weights"),
    ("config", "check_config", "config"),
)


def examine(*, offline: bool) -> Iterator[Progress | Finding]:
    """Every finding as it is made, each after a Progress that names its check."""
    for module, function, name in _CHECKS:
        yield Progress(f"checking {name}")
        yield _guarded(name, partial(_run, module, function))
    yield Progress("checking hub")
    yield _guarded("hub", partial(_run, "hub", "check_hub", offline=offline))


def _run(module: str, function: str, **arguments: bool) -> Finding:
    loaded: ModuleType = importlib.import_module(f"specgen.doctor.{module}")
    found: Finding = getattr(loaded, function)(**arguments)
    return found


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        advice = "reinstall it" if isinstance(error, ImportError) else "run it again with --debug and report it"
        return Finding(name, Verdict.FAIL, f"{type(error).__name__}: {reason}", advice)
