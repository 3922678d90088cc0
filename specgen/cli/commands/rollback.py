"""specgen rollback: use the previous commit of a model."""

from typing import Annotated

import typer

from specgen.cli.completion import cached
from specgen.cli.options import grouped
from specgen.cli.ui import progress
from specgen.core.types import ModelRef


@grouped
def command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", autocompletion=cached, help="org/name[:file.gguf] of the hub.")
    ],
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is cached; make no connection.")] = False,
) -> None:
    """Use the commit that a model had before its last update. Each call goes back by one commit.

    Deletes no file. `specgen update` returns to the newest commit.

    Examples:

        specgen rollback org/name
    """
    from specgen.checkpoint.update import roll_back
    from specgen.core.progress import follow

    ref = ModelRef.parse(model)
    with progress() as show:
        before, after = follow(roll_back(ref, offline=offline), show)
    typer.echo(f"{ref.name} {before[:8]} -> {after[:8]}")
