"""specgen pairs: the curated pairs."""

import dataclasses
from typing import Annotated

import typer

from specgen.cli.ui import print_json
from specgen.core.types import BUNDLED, LOOKUP, Device


def command(
    json: Annotated[bool, typer.Option("--json", help="One JSON array instead of a table.")] = False,
) -> None:
    """List the curated pairs: a name for -m stands for a target and the draft that fits it.

    HERE is what is cached of it: all, part or nothing. FITS says whether the memory that is free now holds it, by its
    size alone; `specgen plan` counts exactly. A pair marked * was not verified: --draft auto does not choose its draft.

    `specgen list` shows what is cached, curated or not.

    Example:

        specgen pairs --json
    """
    from specgen.config.pairs import curated, is_verified, models_of
    from specgen.core.words import format_bytes
    from specgen.hub.cache import complete_models
    from specgen.nn.device import choose_device
    from specgen.render.columns import align
    from specgen.session.memory_plan import fits_roughly

    device = choose_device(Device.AUTO)
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
                "fits": fits_roughly(pair, device),
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
