"""specgen rm: delete cached models."""

import sys
from typing import Annotated

import typer

from specgen.cli.completion import cached
from specgen.cli.ui import confirm
from specgen.core.types import ModelRef
from specgen.render.terminal import is_terminal


def command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", autocompletion=cached, help="org/name: all revisions; or org/name@revision."
        ),
    ],
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
) -> None:
    """Delete models from the Hugging Face cache, which other tools share, and their packed weights.

    Asks first. Local folders and .gguf files are never deleted.

    Examples:

        specgen rm org/name
        specgen rm --yes org/name@v1.0 org/other
    """
    from specgen.core.words import format_bytes
    from specgen.hub.cache import folder, plan_removal
    from specgen.nn.kernels import weight_cache

    plan = plan_removal([ModelRef.parse(model) for model in models])
    size = format_bytes(plan.freed)
    names = ", ".join(plan.models)
    if not yes and is_terminal(sys.stdin):
        typer.echo(f"{names}: {size} in {folder()}, which other tools share.", err=True)
    if not confirm("Delete?", yes=yes, needs=f"deleting {names} ({size})"):
        typer.echo("Nothing was deleted.", err=True)
        raise typer.Exit(1)
    plan.execute()
    typer.echo(f"deleted {names}, {format_bytes(plan.freed + weight_cache.prune())} freed")
