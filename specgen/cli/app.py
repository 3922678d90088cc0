"""The Typer application, with one command for each module of specgen.cli.commands."""

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Annotated

import typer

from specgen import __version__
from specgen.cli import commands
from specgen.cli.help import Command, Group

_HELP = """Local speculative text generation: a small draft proposes tokens, the target verifies them. The text is the
target's own.

specgen "PROMPT" is short for specgen run "PROMPT"; specgen -- "PROMPT" forces it. Every command has its own --help;
docs/cli.md holds all of them. --debug, anywhere, shows the traceback of a failure; docs/exit-codes.md lists the exit
codes. Settings replace options that you type every time, see specgen config.

Examples:

    specgen -m stories "Once upon a time"
    specgen run --help
    specgen --install-completion
"""


def _version(given: bool) -> None:
    if given:
        typer.echo(f"specgen {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def build(names: Sequence[str] | None = None) -> typer.Typer:
    """The application with all commands, or only with `names`: each command costs time to import.

    A module with an `app` has sub-commands. Help is plain: rich's help adds 0.1 s to every start.
    """
    app = typer.Typer(
        name="specgen",
        cls=Group,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(help=_HELP)(_root)
    for name in command_names() if names is None else names:
        module = importlib.import_module(f"{commands.__name__}.{name}")
        if hasattr(module, "app"):
            for command in module.app.registered_commands:
                command.cls = Command
            app.add_typer(module.app, name=name, cls=Group)
        else:
            app.command(name=name, cls=Command)(module.command)
    return app


def command_names() -> list[str]:
    """The names of all commands, in alphabetical order."""
    return [module.name for module in pkgutil.iter_modules(commands.__path__)]
