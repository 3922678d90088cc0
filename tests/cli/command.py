"""Runs specgen in this process with its own streams, or as a program on a pseudo-terminal."""

import fcntl
import io
import struct
import sys
import termios
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pexpect
import pytest

from specgen.cli.main import main

Run = Callable[..., tuple[int, str, str]]
"""The fixture `run`: arguments to exit code, stdout and stderr."""


class Terminal(io.StringIO):
    """A terminal as standard input, with this text typed."""

    def isatty(self) -> bool:
        return True


in_process = pytest.mark.parametrize("either_way", ["in process"], indirect=True)
"""Runs a test once: it starts a program that loads the models itself."""


@dataclass(frozen=True)
class Outcome:
    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode("utf-8")


class Stdin(io.TextIOWrapper):
    """A pipe with these bytes as standard input, or for None a silent terminal."""

    def __init__(self, data: bytes | None) -> None:
        super().__init__(io.BytesIO(data or b""), encoding="utf-8")
        self._terminal = data is None

    def isatty(self) -> bool:
        return self._terminal


def invoke(*arguments: object, stdin: bytes | None = None, stdout: Any = None) -> Outcome:
    """Run specgen here with stdout and stderr as pipes. No `stdin` is a terminal."""
    out, err = (
        stdout or io.TextIOWrapper(io.BytesIO(), encoding="utf-8"),
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", Stdin(stdin))
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
    err.flush()
    written = b"" if stdout else out.buffer.getvalue()
    code = caught.value.code
    assert code is None or isinstance(code, int)
    return Outcome(code or 0, written, err.buffer.getvalue().decode("utf-8"))


def terminal(*arguments: object, columns: int = 80, **environment: str) -> Any:
    """specgen as a program on a pseudo-terminal, for pexpect."""

    def resize() -> None:
        # pexpect sets the size only after the program has started, which is late on a busy machine.
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    return pexpect.spawn(
        sys.executable,
        ["-m", "specgen", *(str(argument) for argument in arguments)],
        dimensions=(24, columns),
        env={**_environment(), "TERM": "xterm-256color", **environment},
        encoding="utf-8",
        timeout=60,
        preexec_fn=resize,
    )


def _environment() -> dict[str, str]:
    import os

    # COLUMNS would count more than the size of the terminal.
    left_out = ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS", "LINES")
    return {name: value for name, value in os.environ.items() if name not in left_out}
