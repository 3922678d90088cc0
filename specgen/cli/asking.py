"""Questions that are answered with yes or no."""

import sys

import typer

from specgen.errors import UsageError
from specgen.render.terminal import is_terminal


def confirm(question: str, *, refusal: str, hint: str) -> None:
    """Go on after a yes; leave with exit code 1 after anything else. Where nobody can be asked, raises UsageError."""
    if not is_terminal(sys.stdin):
        raise UsageError(refusal, hint=hint)
    typer.echo(f"{question} [y/N] ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        typer.echo("Nothing was changed.", err=True)
        raise typer.Exit(1)
