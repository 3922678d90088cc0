"""The Typer application: one command for every module of specgen.cli.commands; one with an `app` has sub-commands."""

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Annotated

import typer

from specgen import __version__
from specgen.cli import commands
from specgen.cli.help import Command, Group

_HELP = """Local speculative text generation: a small draft proposes, the target verifies, the text is the target's own.

specgen "PROMPT" is short for specgen run "PROMPT"; specgen -- "PROMPT" forces it. Every command has its own --help, and
docs/cli.md holds all of them. Put --debug anywhere to see the traceback of a failure; docs/exit-codes.md lists the exit
codes. What you would type every time can be set for good, see specgen config.

Examples:

    specgen -m stories "Once upon a time"
    specgen run --help
    specgen --install-completion
"""


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"specgen {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def build(names: Sequence[str] | None = None) -> typer.Typer:
    """The application, with these commands alone where some are named: each costs time to import and to make.

    Plain help: rich's costs 0.1 s at every start.
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
    """The commands there are, in alphabetical order."""
    return [module.name for module in pkgutil.iter_modules(commands.__path__)]
