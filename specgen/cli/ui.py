"""Questions to the user, warnings, and JSON output."""

import json
import sys

import typer

from specgen.core.errors import UsageError
from specgen.render.terminal import is_terminal, put, sanitize


def confirm(question: str, *, yes: bool, needs: str) -> bool:
    """Whether to go on; in a pipe only --yes does.

    `needs` says what needs a yes, in the UsageError that is raised where nobody can be asked.
    """
    if yes:
        return True
    if not is_terminal(sys.stdin):
        raise UsageError(f"{needs} needs a yes", hint="add --yes where nobody can be asked")
    return agreed(question, default=False)


def agreed(question: str, *, default: bool) -> bool:
    """What a person says; an empty line is the default, and the end of input (Ctrl-D) a no."""
    typer.echo(f"{question} [{'Y/n' if default else 'y/N'}] ", nl=False, err=True)
    line = sys.stdin.readline()
    if not line:
        typer.echo(err=True)
        return False
    said = line.strip().lower()
    return said in ("y", "yes") or (default and not said)


def warn(text: str) -> None:
    """Print one line on stderr."""
    put(sys.stderr, f"specgen: {sanitize(text)}\n")


def print_json(data: object) -> None:
    """One value over several lines; control characters and all beyond ASCII are escaped."""
    typer.echo(json.dumps(data, indent=2, default=str))
