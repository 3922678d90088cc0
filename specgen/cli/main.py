"""The entry point: arguments in, exit code out, and every failure as one line."""

import difflib
import os
import sys
from collections.abc import Sequence

from specgen.cli.app import build, command_names
from specgen.cli.options import is_terminal
from specgen.errors import INTERRUPTED, SpecgenError, UsageError

_ROOT_OPTIONS = ("-h", "--help", "--version", "--install-completion", "--show-completion")
_DEBUG = "--debug"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run specgen and exit. A traceback is shown only with --debug."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = given[: given.index("--")] if "--" in given else given
    debug = _DEBUG in options
    if debug:
        given.remove(_DEBUG)
    try:
        code = build()(route(given), prog_name="specgen", standalone_mode=False)
        _flush()
    except SpecgenError as error:
        code = _fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        code = 0  # whoever read the output has had enough
    except Exception as error:
        # Typer's own usage errors, whose class it does not export.
        show = getattr(error, "format_message", None)
        if show is not None:
            code = _fail(f"{show()}; see specgen --help", 2, debug)
        else:
            code = _fail(
                f"unexpected {type(error).__name__}: {error}; run it again with {_DEBUG} and report it", 1, debug
            )
    _silence()
    sys.exit(code if isinstance(code, int) else 0)


def route(arguments: list[str]) -> list[str]:
    """Make `run` the command where none is named. Raises UsageError for what looks like a misspelt command."""
    if not arguments:
        return arguments if is_terminal(sys.stdin) else ["run"]
    first = arguments[0]
    if os.environ.get("_SPECGEN_COMPLETE") or first in _ROOT_OPTIONS or first in command_names():
        return arguments
    positional = [argument for argument in arguments if not argument.startswith("-")]
    if (
        first.isalpha()
        and len(positional) == 1
        and (close := difflib.get_close_matches(first, command_names(), 1, 0.7))
    ):
        raise UsageError(
            f"no command '{first}'; did you mean '{close[0]}'?", hint=f'for a prompt: specgen run "{first}"'
        )
    return ["run", *arguments]


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        raise  # noqa: PLE0704 - called from an except block
    print(f"specgen: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    return code


def _flush() -> None:
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def _silence() -> None:
    """Let the interpreter's own last flush of a broken pipe fail silently."""
    try:
        _flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
