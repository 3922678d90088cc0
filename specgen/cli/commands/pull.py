"""specgen pull: get models before they are needed."""

import sys
from typing import Annotated

import typer

from specgen.cli.completing import models
from specgen.cli.options import grouped
from specgen.core import ModelRef


@grouped
def command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", autocompletion=models, help="org/name[@revision] of the hub, or a curated pair."
        ),
    ],
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Get Python code that comes with the model too.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only check that everything is cached; make no connection.")
    ] = False,
) -> None:
    """Download models into the Hugging Face cache, and check those that are there.

    Prints a line for each: id, commit, path, with tabs between. Files that are there already are not downloaded
    again.

    Examples:

        specgen pull stories
        specgen pull Qwen/Qwen2.5-0.5B-Instruct
        specgen pull org/target org/draft@v1.0
    """
    from specgen.models.checkpoint import fetch_weights, find, follow
    from specgen.pairs import find_pair
    from specgen.render.progress import ProgressLine

    line = ProgressLine(sys.stderr)
    try:
        for model in models:
            pair = find_pair(model)
            for ref in filter(None, (pair.target, pair.draft) if pair else (ModelRef.parse(model),)):
                checkpoint = follow(find(ref, offline=offline, trust_remote_code=trust_remote_code), line.show)
                checkpoint = follow(fetch_weights(checkpoint, offline=offline), line.show)
                line.close()
                typer.echo(f"{ref.source}\t{checkpoint.commit or '-'}\t{checkpoint.path}")
    finally:
        line.close()
