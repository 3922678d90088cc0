"""The entry point: arguments to an exit code, and every failure as one line."""

import errno
import os
import sys
import traceback
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from specgen.cli.app import build, command_names
from specgen.cli.ui import suggested_command, suggested_model
from specgen.core.errors import INTERRUPTED, DownloadFailed, SpecgenError, UsageError
from specgen.render.terminal import is_terminal, sanitize

_ROOT_OPTIONS = ("-h", "--help", "--version", "--install-completion", "--show-completion")
_DEBUG = "--debug"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run specgen and exit. `--debug` prints the traceback of a failure."""
    _open_closed_streams()
    if os.environ.get("_SPECGEN_COMPLETE"):
        route_completion(os.environ)
        build()(prog_name="specgen")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = given[: given.index("--")] if "--" in given else given
    debug = _DEBUG in options
    if debug:
        given.remove(_DEBUG)
    try:
        routed = route(given)
        known = routed[0] in command_names()
        code = build(routed[:1] if known else None)(routed, prog_name="specgen", standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        code = 0  # the reader closed the pipe, for example head
    except SystemExit as ended:
        # Typer turns a broken pipe into exit code 1.
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        code = 0
    except Exception as error:
        message, code = _explain(error, given)
        if debug:
            traceback.print_exc()
        print(f"specgen: {sanitize(' '.join(message.split()))}", file=sys.stderr)  # noqa: T201
    _silence()
    sys.exit(code if isinstance(code, int) else 0)


def route(arguments: list[str]) -> list[str]:
    """Add the command `run` if no command is named. Raises UsageError for a misspelt command."""
    if not arguments:
        return ["--help"] if is_terminal(sys.stdin) else ["run"]
    first = arguments[0]
    if first == "help" and (len(arguments) == 1 or arguments[1] in command_names()):
        return [*arguments[1:], "--help"]
    if first in _ROOT_OPTIONS or first in command_names():
        return arguments
    if meant := suggested_command(arguments, command_names()):
        raise UsageError(f"no command '{first}'; did you mean '{meant}'?", hint=f'for a prompt: specgen run "{first}"')
    return ["run", *arguments]


def route_completion(environment: MutableMapping[str, str]) -> None:
    """Add `run` to the words that the shell completes if no command is named, as in `specgen -m st`."""
    if words := environment.get("COMP_WORDS"):  # bash: one word on each line
        program, *rest = words.split("\n")
        position = int(environment.get("COMP_CWORD", "0"))
        if position > 1 and rest and _means_run(rest[0]):
            environment["COMP_WORDS"] = "\n".join([program, "run", *rest])
            environment["COMP_CWORD"] = str(position + 1)
    elif line := environment.get("_TYPER_COMPLETE_ARGS"):
        program, _, after = line.partition(" ")
        first, space, _ = after.lstrip().partition(" ")
        if space and _means_run(first):
            environment["_TYPER_COMPLETE_ARGS"] = f"{program} run {after}"


def _means_run(first: str) -> bool:
    return first not in _ROOT_OPTIONS and first not in command_names()


def _explain(error: Exception, given: Sequence[str]) -> tuple[str, int]:
    """The message of a failure in one line, and its exit code."""
    if isinstance(error, SpecgenError):
        meant = suggested_model(error, given)
        if meant is None:
            return str(error), error.exit_code
        # If the hub does not answer, the name may be right. Then the hint helps.
        rest = f"; {error.hint}" if isinstance(error, DownloadFailed) and error.hint else ""
        return f"{error.message}; did you mean '{meant}'?{rest}", error.exit_code
    # A usage error of Typer, which does not export the class.
    if show := getattr(error, "format_message", None):
        context = getattr(error, "ctx", None)
        message = show()
        if option := getattr(error, "option_name", None):
            near = getattr(error, "possibilities", None)
            message = f"no option {option}" + (f"; did you mean '{near[0]}'?" if near else "")
        return f"{message}; see {context.command_path if context else 'specgen'} --help", UsageError.exit_code
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{error.strerror}; make room and run it again", 1
    return f"unexpected {type(error).__name__}: {error}; run it again with {_DEBUG} and report it", 1


def _open_closed_streams() -> None:
    """Replace standard streams that the caller closed, which are None in Python, by the null device."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open until the process ends


def _silence() -> None:
    """Keep the last flush of the interpreter silent on a broken pipe or a full disk."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
