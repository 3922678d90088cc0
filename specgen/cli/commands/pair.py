"""specgen pair: which draft for a target?"""

import sys
from typing import Annotated, Any

import typer

from specgen.cli.completion import models
from specgen.cli.options import grouped
from specgen.cli.ui import print_json
from specgen.core.types import Device, EngineOptions


@grouped
def command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            autocompletion=models,
            help="A curated pair, org/name[@revision], a folder, a .gguf file.",
        ),
    ],
    device: Annotated[Device, typer.Option(help="Where the pair would run.")] = Device.AUTO,
    ctx_size: Annotated[int | None, typer.Option(min=2, metavar="N", help="Context length in tokens.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is cached; make no connection.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Rank the drafts for a target: the curated one, and smaller models of its family, cached or on the hub.

    Tokenizers are fetched and compared, weights are not. The speed-up is a prediction from sizes and the acceptance
    rate of past answers of the two, else an assumed one; `specgen bench` measures. docs/models.md has the formula.

    Examples:

        specgen pair stories
        specgen pair Qwen/Qwen2.5-7B-Instruct --json
    """
    from specgen.checkpoint.checkpoint import find
    from specgen.config.pairs import resolve
    from specgen.core.progress import follow
    from specgen.nn.device import choose_device
    from specgen.render.progress import ProgressLine
    from specgen.session.draft_selection import rank_drafts

    options = EngineOptions(device=device, ctx_size=ctx_size, offline=offline)
    line = ProgressLine(sys.stderr)
    try:
        checkpoint = follow(find(resolve(target), offline=offline), line.show)
        candidates = follow(rank_drafts(checkpoint, options, choose_device(device)), line.show)
    finally:
        line.close()
    rows = [_row(candidate) for candidate in candidates]
    if json:
        print_json({"target": checkpoint.ref.name, "candidates": rows})
        return
    _print(rows)


def _row(candidate: Any) -> dict[str, Any]:
    """A candidate as plain data; sizes in bytes."""
    plan = candidate.plan
    return {
        "draft": candidate.ref.name,
        "origin": candidate.origin,
        "shared_tokens": candidate.comparison[1] if candidate.comparison else None,
        "memory": plan.total if plan else None,
        "free": plan.free if plan else None,
        "download": plan.draft.download if plan and plan.draft else None,
        "speed_up": round(candidate.speed_up, 2) if candidate.speed_up else None,
        "num_draft_tokens": candidate.draft_length,
        "acceptance_rate": round(candidate.expected.rate, 3),
        "acceptance_basis": candidate.expected.basis,
        "past_answers": candidate.expected.answers,
        "rejected": candidate.rejected,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    from specgen.core.words import format_bytes
    from specgen.render.terminal import sanitize

    for row in rows:
        name = f"{sanitize(row['draft'])} ({row['origin']})"
        if row["rejected"]:
            typer.echo(f"{name}: rejected: {sanitize(row['rejected'])}")
            continue
        more = f", {format_bytes(row['download'])} to download" if row["download"] else ""
        rate = f"{row['acceptance_rate']:.0%} accepted ({row['acceptance_basis']})"
        typer.echo(
            f"{name}: ~{row['speed_up']:.1f}x at -k {row['num_draft_tokens']} for {rate}, "
            f"{row['shared_tokens']} tokens shared, {format_bytes(row['memory'])} of memory for both{more}"
        )
    if any(row["rejected"] is None for row in rows):
        typer.echo("These are predictions; `specgen bench` measures.")
    else:
        typer.echo("No draft model fits: use --draft lookup, which --draft auto does.")
