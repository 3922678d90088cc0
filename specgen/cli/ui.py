"""User interaction of commands: questions, editor, JSON output, suggestions for misspelt names."""

import contextlib
import importlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import typer

from specgen.cli import commands
from specgen.cli.completion import model_names
from specgen.cli.stream import owned_terminal
from specgen.core.errors import DownloadFailed, ModelNotFound, NotCached, UsageError
from specgen.core.events import Event
from specgen.core.types import ModelRef
from specgen.core.words import nearest
from specgen.render.terminal import is_terminal, put, sanitize

_NEAR = 0.65  # similarity of "rnu" and "run"


def confirm(question: str, *, yes: bool, needs: str) -> bool:
    """Whether the user agrees, by --yes or on the terminal.

    Raises UsageError in a pipe without --yes; `needs` is the subject of its message.
    """
    if yes:
        return True
    if not is_terminal(sys.stdin):
        raise UsageError(f"{needs} needs a yes", hint="add --yes where stdin is no terminal")
    return agreed(question, default=False)


def agreed(question: str, *, default: bool) -> bool:
    """The answer of the user. An empty line is the default, the end of input (Ctrl-D) is a no."""
    typer.echo(f"{question} [{'Y/n' if default else 'y/N'}] ", nl=False, err=True)
    line = sys.stdin.readline()
    if not line:
        typer.echo(err=True)
        return False
    answer = line.strip().lower()
    return answer in ("y", "yes") or (default and not answer)


def warn(text: str) -> None:
    """Print one line on stderr."""
    put(sys.stderr, f"specgen: {sanitize(text)}\n")


def print_json(data: object) -> None:
    """Print one value over several lines. Control characters and non-ASCII characters are escaped."""
    typer.echo(json.dumps(data, indent=2, default=str))


@contextlib.contextmanager
def progress() -> Iterator[Callable[[Event], None]]:
    """A function that shows progress and notices on stderr. Progress is erased at the end, and at Ctrl-Z."""
    from specgen.render.progress import ProgressLine  # noqa: PLC0415 - rich takes 0.1 s

    line = ProgressLine(sys.stderr)

    def show(event: Event) -> None:
        with terminal.drawing():
            line.show(event)

    try:
        with owned_terminal(line.close) as terminal:
            yield show
    finally:
        line.close()


def open_editor(path: Path) -> None:
    """Open a file in $VISUAL or $EDITOR and wait for the end. Raises UsageError if the editor fails."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ("notepad" if os.name == "nt" else "vi")
    try:
        code = subprocess.run([*shlex.split(editor, posix=os.name != "nt"), str(path)], check=False).returncode
    except (OSError, ValueError) as error:  # ValueError: a quote in $EDITOR is not closed
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot start the editor '{editor}': {reason}", hint="set EDITOR to another one") from error
    if code:
        raise UsageError(f"the editor '{editor}' failed with {code}", hint="nothing was changed; set EDITOR to another")


def suggested_model(error: Exception, words: Sequence[str]) -> str | None:
    """The known model nearest to the word of the command line that `error` is about."""
    if not isinstance(error, ModelNotFound | NotCached | DownloadFailed) or "did you mean" in str(error):
        return None
    known = model_names()
    for word in words:
        name = ModelRef.parse(word).source
        if name and name in error.message and name not in known:
            # Users often get capitals wrong. No two models differ only in capitals.
            by_lower = {each.lower(): each for each in known}
            if near := nearest(name.lower(), by_lower, _NEAR):
                return by_lower[near]
    return None


def suggested_command(words: Sequence[str], names: Iterable[str]) -> str | None:
    """The command nearest to the first word, if the words look like a command rather than a prompt."""
    first, *rest = words
    near = nearest(first, names, _NEAR) if first.isalpha() else None
    if near is None:
        return None
    alone = not rest or rest[0].startswith("-")
    return near if alone or rest[0] in _subcommands(near) else None


def _subcommands(name: str) -> set[str]:
    app = getattr(importlib.import_module(f"{commands.__name__}.{name}"), "app", None)
    registered = app.registered_commands if app else ()
    return {command.name or command.callback.__name__ for command in registered}
