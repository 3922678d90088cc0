"""specgen update: use the newest commit of a model."""

from typing import Annotated

import typer

from specgen.cli.completion import cached
from specgen.cli.ui import confirm, progress
from specgen.core.types import ModelRef


def command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", autocompletion=cached, help="org/name[@revision][:file.gguf] of the hub.")
    ],
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
) -> None:
    """Compare the local commit of a model with the newest one of the hub, and use the newest from then on.

    Without this command every run uses the commit that was downloaded first. It shows the changes (weights, licence,
    tokenizer, settings) and asks. The old files stay; `specgen rollback` returns to them.

    Examples:

        specgen update org/name
        specgen update org/name@v2 --yes
    """
    from specgen.checkpoint.update import apply_update, find_update
    from specgen.core.progress import follow
    from specgen.core.words import format_bytes
    from specgen.render.terminal import sanitize

    ref = ModelRef.parse(model)
    with progress() as show:
        update = follow(find_update(ref), show)
    if not update.is_needed:
        typer.echo(f"{ref.name} is up to date: {update.before[:8]} ({update.revision})")
        return
    typer.echo(f"{ref.name} {update.before[:8]} -> {update.after[:8]} ({update.revision})")
    for change in update.changes:
        mark = "!" if change.risky else " "
        typer.echo(sanitize(f"{mark} {change.what:<15} {change.before} -> {change.after}"))
    if not update.changes:
        typer.echo("  no change that affects answers")
    question = f"Download {format_bytes(update.download_bytes)} and use it?" if update.download_bytes else "Use it?"
    if not confirm(question, yes=yes, needs=f"updating {ref.name}"):
        typer.echo(f"{ref.name} stays at {update.before[:8]}.", err=True)
        raise typer.Exit(1)
    with progress() as show:
        follow(apply_update(update), show)
    typer.echo(f"{ref.name} is at {update.after[:8]}; `specgen rollback {ref.name}` goes back to {update.before[:8]}")
