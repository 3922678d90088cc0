"""Cold start: from the start of a process to the first byte of text."""

import dataclasses
import subprocess
import sys
import tempfile
import time

from specgen.core.errors import SpecgenError
from specgen.core.types import EngineOptions

_PROMPT = "Once upon a time"
_RUNS = 2


def cold_starts(target: str, draft: str, options: EngineOptions) -> list[float]:
    """The seconds that `specgen run` takes to its first byte on stdout, in two processes, one after the other."""
    command = [sys.executable, "-m", "specgen", "run", "-m", target, "-d", draft, "-n", "1", "--temp", "0"]
    command += ["--keep-alive", "off"]  # as the benchmark itself, and in a process of its own
    # The models are there, so that nothing is left to ask the hub for.
    command += [*flags(dataclasses.replace(options, offline=True, verbose=False)), "--", _PROMPT]
    return [first_byte(command) for _ in range(_RUNS)]


def first_byte(command: list[str]) -> float:
    """The seconds until `command` writes to stdout. Raises SpecgenError when it fails."""
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, bufsize=0
        ) as process:
            assert process.stdout is not None  # noqa: S101 - it was asked for
            process.stdout.read(1)
            seconds = time.perf_counter() - start
            process.communicate()
        if process.returncode:
            errors.seek(0)
            lines = errors.read().decode("utf-8", "replace").strip().splitlines()
            raise SpecgenError(f"the cold start failed: {lines[-1] if lines else 'without a word'}")
    return seconds


def flags(options: EngineOptions) -> list[str]:
    """The options of the command line that say what `options` say: they have the same names."""
    given: list[str] = []
    for field in dataclasses.fields(options):
        value, flag = getattr(options, field.name), field.name.replace("_", "-")
        if value == field.default:
            continue
        given += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return given
