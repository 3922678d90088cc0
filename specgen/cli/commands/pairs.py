"""specgen pairs: list the curated pairs, or rank the drafts for a target."""

import dataclasses
from typing import Annotated, Any

import typer

from specgen.cli.completion import models
from specgen.cli.options import grouped
from specgen.cli.ui import print_json, progress
from specgen.core.types import BUNDLED, LOOKUP, Device, EngineOptions


@grouped
def command(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET]",
            autocompletion=models,
            help="Rank drafts for this target: a curated pair, org/name[@revision], a folder, a .gguf file.",
        ),
    ] = None,
    device: Annotated[Device, typer.Option(help="Where the pair would run.")] = Device.AUTO,
    ctx_size: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Context length in tokens; with TARGET.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is cached; make no connection.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """List the curated pairs, or rank the drafts for TARGET.

    A curated pair is a name for -m: a target with a fitting draft. HERE is what is cached of it: all, part or nothing.
    FITS compares its size with the free memory; `specgen plan` counts exactly. A pair marked * is not verified, so
    --draft auto does not choose its draft. `specgen list` shows all cached models.

    With TARGET, the candidates are the curated draft and smaller models of its family: beside a local target, cached,
    or on the hub. Tokenizers
    are downloaded and compared, weights are not. The speed-up is predicted from sizes and the acceptance rate of past
    answers, or an assumed one; `specgen bench` measures it. docs/models.md has the formula.

    Examples:

        specgen pairs --json
        specgen pairs stories
        specgen pairs Qwen/Qwen2.5-7B-Instruct --json
    """
    if target is None:
        _list(device, json=json)
    else:
        _rank(target, EngineOptions(device=device, ctx_size=ctx_size, offline=offline), json=json)


def _list(device: Device, *, json: bool) -> None:
    from specgen.config.pairs import curated, is_verified, models_of
    from specgen.core.words import format_bytes
    from specgen.hub.cache import complete_models
    from specgen.nn.device import choose_device
    from specgen.render.terminal import align
    from specgen.session.memory_plan import fits_roughly

    device_here = choose_device(device)
    cached = complete_models()
    rows = []
    for pair in curated().values():
        models = models_of(pair)
        here = [model.id in cached or model.id.startswith(BUNDLED) for model in models]
        rows.append(
            {
                "name": pair.name,
                "aliases": list(pair.aliases),
                "target": dataclasses.asdict(models[0]),
                "draft": dataclasses.asdict(models[1]) if pair.draft else LOOKUP,
                "about": pair.about,
                "why": pair.why,
                "verified": is_verified(pair),
                "cached": "all" if all(here) else "part" if any(here) else "nothing",
                "fits": fits_roughly(pair, device_here),
            }
        )
    if json:
        print_json(rows)
        return
    table = [("NAME", "TARGET", "DRAFT", "SIZE", "LICENCE", "HERE", "FITS")]
    for pair, row in zip(curated().values(), rows, strict=True):
        models = models_of(pair)
        gated = " (gated)" if any(model.gated for model in models) else ""
        table.append(
            (
                pair.name + ("" if row["verified"] else " *"),
                models[0].id,
                models[1].id.rpartition("/")[2] if pair.draft else LOOKUP,
                format_bytes(sum(model.bytes for model in models)),
                models[0].licence + gated,
                {"all": "all", "part": "part", "nothing": ""}[str(row["cached"])],
                "yes" if row["fits"] else "no",
            )
        )
    for line in align(table, right={3}):
        typer.echo(line)


def _rank(target: str, options: EngineOptions, *, json: bool) -> None:
    from specgen.checkpoint.checkpoint import find
    from specgen.config.pairs import resolve
    from specgen.core.events import Notice
    from specgen.core.progress import follow
    from specgen.nn.device import choose_device
    from specgen.session.draft_selection import rank_drafts, why_hub_is_skipped

    with progress() as show:
        checkpoint = follow(find(resolve(target), offline=options.offline), show)
        bundled = checkpoint.ref.source.startswith(BUNDLED)
        if not bundled and (why := why_hub_is_skipped(checkpoint, options)):
            show(Notice(f"the hub was not searched for drafts: {why}"))
        candidates = follow(rank_drafts(checkpoint, options, choose_device(options.device)), show)
    rows = [_candidate(candidate) for candidate in candidates]
    if json:
        print_json({"target": checkpoint.ref.name, "candidates": rows})
    else:
        _print_candidates(rows)


def _candidate(candidate: Any) -> dict[str, Any]:
    """A candidate as plain data, sizes in bytes."""
    plan = candidate.plan
    return {
        "draft": candidate.ref.name,
        "origin": candidate.origin,
        "shared_tokens": candidate.comparison[1].leading if candidate.comparison else None,
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


def _print_candidates(rows: list[dict[str, Any]]) -> None:
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
    usable = [row for row in rows if row["rejected"] is None]
    if usable and usable[0]["origin"] == "beside":
        typer.echo(f"--draft auto does not choose a model beside the target: use -d {sanitize(usable[0]['draft'])}")
    if usable:
        typer.echo("These are predictions; `specgen bench` measures.")
    else:
        typer.echo("No draft model fits: use --draft lookup, which --draft auto does.")
