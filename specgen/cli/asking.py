"""A question that a person answers; in a pipe only --yes does."""

import sys

import typer

from specgen.errors import UsageError
from specgen.render.terminal import is_terminal


def confirm(question: str, *, yes: bool, needs: str) -> bool:
    """Whether to go on. `needs` says what does, in the UsageError that is raised where nobody can be asked."""
    if yes:
        return True
    if not is_terminal(sys.stdin):
        raise UsageError(f"{needs} needs a yes", hint="add --yes where nobody can be asked")
    typer.echo(f"{question} [y/N] ", nl=False, err=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
