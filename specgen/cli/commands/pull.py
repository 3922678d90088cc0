"""specgen pull: download models."""

from dataclasses import replace
from typing import Annotated

import typer

from specgen.cli.completion import models
from specgen.cli.options import grouped
from specgen.cli.ui import progress
from specgen.core.errors import UsageError
from specgen.core.types import ModelRef


@grouped
def command(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            autocompletion=models,
            help="org/name[@revision][:file.gguf] of the hub, or a curated pair.",
        ),
    ],
    revision: Annotated[
        str | None, typer.Option(metavar="REV", help="Use this branch, tag or commit of MODEL from now on.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Download the Python code of the model too.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Only check the cache; make no connection.")] = False,
) -> None:
    """Download models into the Hugging Face cache, and check cached ones.

    Prints one line for each model: id, commit and path, separated by tabs. Cached files are not downloaded again.
    Later runs use this commit until `specgen update`.

    Examples:

        specgen pull stories
        specgen pull Qwen/Qwen2.5-0.5B-Instruct
        specgen pull org/target org/draft@v1.0
        specgen pull org/name:model-Q8_0.gguf --revision v1.0
    """
    from specgen.checkpoint.checkpoint import fetch_all, find
    from specgen.config.pairs import find_pair
    from specgen.core.progress import follow
    from specgen.hub import pins

    refs: list[ModelRef] = []
    for model in models:
        pair = find_pair(model)
        refs += filter(None, (pair.target, pair.draft)) if pair else [ModelRef.parse(model)]
    if revision is not None:
        if len(refs) > 1 or refs[0].revision:
            raise UsageError("--revision is for one MODEL", hint="write org/name@revision for each")
        refs = [replace(refs[0], revision=revision)]
    with progress() as show:
        checkpoints = [follow(find(ref, offline=offline, trust_remote_code=trust_remote_code), show) for ref in refs]
        follow(fetch_all(checkpoints, offline=offline), show)
    for ref, checkpoint in zip(refs, checkpoints, strict=True):
        if ref.revision is not None and checkpoint.commit is not None:
            old = pins.pin_of(ref.source)
            pins.move(ref.source, checkpoint.commit, ref.revision)
            if old is not None and old.commit != checkpoint.commit:
                back = f"`specgen rollback {ref.name}` goes back to {old.commit[:8]}"
                typer.echo(f"specgen: {ref.name} is at {checkpoint.commit[:8]} from now on; {back}", err=True)
        typer.echo(f"{ref.name}\t{checkpoint.commit or '-'}\t{checkpoint.path}")
