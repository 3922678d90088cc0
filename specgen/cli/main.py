"""The entry point: arguments in, exit code out, and every failure as one line."""

import difflib
import errno
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from specgen.cli.app import build, command_names
from specgen.errors import INTERRUPTED, SpecgenError, UsageError
from specgen.render.sanitize import sanitize
from specgen.render.terminal import is_terminal

_ROOT_OPTIONS = ("-h", "--help", "--version", "--install-completion", "--show-completion")
_DEBUG = "--debug"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run specgen and exit. `--debug` adds the traceback of a failure."""
    _open_closed_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = given[: given.index("--")] if "--" in given else given
    debug = _DEBUG in options
    if debug:
        given.remove(_DEBUG)
    try:
        code = build()(route(given), prog_name="specgen", standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        code = 0  # whoever read the output has had enough
    except SystemExit as ended:
        # Typer makes exit code 1 of a broken pipe.
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        code = 0
    except Exception as error:
        message, code = _explain(error)
        if debug:
            traceback.print_exc()
        print(f"specgen: {sanitize(' '.join(message.split()))}", file=sys.stderr)  # noqa: T201
    _silence()
    sys.exit(code if isinstance(code, int) else 0)


def route(arguments: list[str]) -> list[str]:
    """Make `run` the command where none is named. Raises UsageError for what looks like a misspelt command."""
    if not arguments:
        return ["--help"] if is_terminal(sys.stdin) else ["run"]
    first = arguments[0]
    if os.environ.get("_SPECGEN_COMPLETE") or first in _ROOT_OPTIONS or first in command_names():
        return arguments
    alone = len(arguments) == 1 or arguments[1].startswith("-")
    if first.isalpha() and alone and (close := difflib.get_close_matches(first, command_names(), 1, 0.7)):
        raise UsageError(
            f"no command '{first}'; did you mean '{close[0]}'?", hint=f'for a prompt: specgen run "{first}"'
        )
    return ["run", *arguments]


def _explain(error: Exception) -> tuple[str, int]:
    """One line for a failure, and its exit code."""
    if isinstance(error, SpecgenError):
        return str(error), error.exit_code
    # Typer's own usage errors, whose class it does not export.
    if show := getattr(error, "format_message", None):
        return f"{show()}; see specgen --help", UsageError.exit_code
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{error.strerror}; make room and run it again", 1
    return f"unexpected {type(error).__name__}: {error}; run it again with {_DEBUG} and report it", 1


def _open_closed_streams() -> None:
    """Python has None for a standard stream that the caller closed; what is written there is nobody's."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open until the end


def _silence() -> None:
    """Let the interpreter's own last flush of a broken pipe or a full disk fail silently."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
