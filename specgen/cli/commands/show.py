"""specgen show: details of a model."""

import dataclasses
from typing import Annotated

import typer

from specgen.cli.completion import models
from specgen.cli.options import grouped
from specgen.cli.ui import print_json, progress
from specgen.core.types import LOOKUP, ModelRef


@grouped
def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            autocompletion=models,
            help="A curated pair, org/name[@revision][:file.gguf], a folder, a .gguf file.",
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is cached; make no connection.")] = False,
) -> None:
    """Show the commit, licence, architecture, size and files of a model, with SHA-256 sums.

    If a model is not cached, only its small files or the GGUF header are downloaded, never the weights.

    Examples:

        specgen show stories
        specgen show org/name
        specgen show ./model.gguf --json
    """
    from specgen.checkpoint.checkpoint import find
    from specgen.checkpoint.drafter_format import describe_head, is_head
    from specgen.checkpoint.summary import summarize
    from specgen.config.pairs import find_pair
    from specgen.core.progress import follow
    from specgen.core.words import format_bytes
    from specgen.hub import pins
    from specgen.render.terminal import sanitize

    pair = find_pair(model)
    with progress() as show:
        checkpoint = follow(find(pair.target if pair else ModelRef.parse(model), offline=offline), show)
    summary = dataclasses.asdict(summarize(checkpoint)) | {"weight_bytes": checkpoint.weight_bytes}
    if is_head(checkpoint):
        summary |= describe_head(checkpoint)
    pin = pins.pin_of(checkpoint.ref.source) if checkpoint.commit else None
    if pin:
        summary |= {"pinned": pin.commit == checkpoint.commit, "former": list(pin.former)}
    if pair:
        summary = {"pair": pair.name, "about": pair.about, "draft": str(pair.draft or LOOKUP)} | summary
    if json:
        print_json(summary)
        return
    files, hashes = summary.pop("files"), summary.pop("hashes")
    if pin:
        summary["former"] = ", ".join(commit[:8] for commit in pin.former) or "none"
    summary["weight_bytes"] = format_bytes(summary["weight_bytes"]) if summary["weight_bytes"] else None
    labels = {name: name.replace("_", " ") for name in summary} | {"weight_bytes": "weights"}
    for name, value in summary.items():
        shown = "unknown" if value is None else _shown(value)
        if name != "revision" or value is not None:
            typer.echo(f"{labels[name]:<15} {sanitize(str(shown))}")
    for number, (name, size) in enumerate(files.items()):
        digest = hashes.get(name, "")[:12]
        typer.echo(f"{'' if number else 'files':<15} {format_bytes(size):>9}  {digest:<12}  {sanitize(name)}")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
