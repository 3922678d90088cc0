"""specgen list: the local models."""

from typing import Annotated

import typer

from specgen.cli.ui import print_json


def command(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON array instead of a table.")] = False,
) -> None:
    """List the local models: the bundled pairs, and the models in the Hugging Face cache.

    SIZE counts all revisions of a model. A revision without weights has only its small files; a run downloads the
    rest. `specgen show MODEL` gives details, `specgen rm MODEL` deletes a model.

    Examples:

        specgen list
        specgen list --json
    """
    from specgen.core.words import format_bytes
    from specgen.hub import pins
    from specgen.hub.cache import cached_models, folder
    from specgen.render.terminal import align

    models = cached_models()
    pinned = {(model, pin.commit) for model, pin in pins.pins().items()}
    if json:
        cached = [
            {
                "id": model.id,
                "size": model.size,
                "last_used": model.last_used.isoformat(timespec="seconds"),
                "path": str(model.path),
                "revisions": [
                    {
                        "commit": revision.commit,
                        "names": list(revision.names),
                        "whole": revision.is_complete,
                        "pinned": (model.id, revision.commit) in pinned,
                        "path": str(revision.path),
                    }
                    for revision in model.revisions
                ],
            }
            for model in models
        ]
        bundled = [{"id": name, "size": size, "bundled": True} for name, size in _bundled()]
        print_json([*bundled, *cached])
        return
    table = [("MODEL", "SIZE", "LAST USED", "REVISIONS")]
    table += [(name, format_bytes(size), "", "bundled: target and draft") for name, size in _bundled()]
    for model in models:
        revisions = []
        for revision in model.revisions:
            names = [*revision.names, *(["in use"] if (model.id, revision.commit) in pinned else [])]
            names += [] if revision.is_complete else ["without weights"]
            revisions.append(f"{revision.commit[:8]} ({', '.join(names)})" if names else revision.commit[:8])
        used = model.last_used.astimezone().strftime("%Y-%m-%d %H:%M")
        table.append((model.id, format_bytes(model.size), used, ", ".join(revisions)))
    for line in align(table, right={1}):
        typer.echo(line)
    if not models:
        typer.echo(f"specgen: no models in {folder()}; `specgen pull org/name` gets one", err=True)


def _bundled() -> list[tuple[str, int]]:
    """The bundled pairs, with the size of both models in bytes."""
    from specgen.checkpoint.checkpoint import bundled_size
    from specgen.config.pairs import curated

    sizes = {name: [bundled_size(ref) for ref in (pair.target, pair.draft) if ref] for name, pair in curated().items()}
    return [(name, sum(filter(None, both))) for name, both in sizes.items() if None not in both]
