"""The reference of all commands, from the application itself: python -m specgen.cli.reference > docs/cli.md."""

import sys
from collections.abc import Iterator
from typing import Any

import typer

from specgen.cli.app import build

_HEAD = """# Commands

What `--help` says of every command; made by `python -m specgen.cli.reference > docs/cli.md`.
"""
_WIDTH = 100


def reference() -> str:
    """The text of docs/cli.md: a section a command, with its help as a terminal of 100 columns shows it."""
    sections = [
        f"{'#' * min(len(context.command_path.split()) + 1, 3)} {context.command_path}\n\n"
        f"```text\n{context.get_help().rstrip()}\n```\n"
        for context in contexts()
    ]
    return "\n".join([_HEAD, *sections])


def contexts() -> Iterator[typer.Context]:
    """Every command with its path, each group before its own, in the order of --help."""
    yield from _contexts(typer.main.get_command(build()), None, "specgen")


def _contexts(command: Any, parent: typer.Context | None, name: str) -> Iterator[typer.Context]:
    settings = {**command.context_settings, "max_content_width": _WIDTH, "terminal_width": _WIDTH}
    context = typer.Context(command, parent=parent, info_name=name, **settings)
    yield context
    for each in command.list_commands(context) if hasattr(command, "commands") else ():
        yield from _contexts(command.commands[each], context, each)


if __name__ == "__main__":
    sys.stdout.write(reference())
