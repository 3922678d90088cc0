"""specgen plan: the memory that a pair needs."""

from typing import Annotated, Any

import typer

from specgen.cli.default_model import named_model
from specgen.cli.options import ModelOptions, grouped
from specgen.cli.ui import print_json, progress
from specgen.core.errors import OutOfMemory


@grouped
def command(
    models: ModelOptions,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Show the memory that a pair needs and the free memory. Downloads and loads no weights.

    If the pair does not fit, the exit code is 8 and alternatives are listed. docs/models.md explains the count.

    Examples:

        specgen plan -m stories
        specgen plan -m qwen2.5-coder-7b --ctx-size 16384 --json
    """
    target = named_model(models)

    from specgen.config.pairs import resolve, resolve_draft
    from specgen.core.progress import follow
    from specgen.session.draft_selection import smaller_draft
    from specgen.session.loading import resolve_pair
    from specgen.session.memory_plan import what_fits

    options = models.engine()
    with progress() as show:
        prepared = follow(resolve_pair(resolve(target), resolve_draft(models.draft), options), show)
        plan = prepared.plan
        alternatives = [] if plan.fits else what_fits(plan, options)
        if plan.draft and not plan.fits and (smaller := follow(smaller_draft(plan, options), show)):
            alternatives.append(f"--draft {smaller}")
    by_model = "hybrid" if options.lookup else "model"
    figures = _figures(plan) | {"drafter": prepared.drafter if plan.draft is None else by_model}
    figures["target_alone_fits"], figures["would_fit"] = plan.without_draft.fits, alternatives
    if json:
        print_json(figures)
    else:
        _print(figures)
    if not plan.fits:
        raise typer.Exit(OutOfMemory.exit_code)


def _figures(plan: Any) -> dict[str, Any]:
    """The plan as plain data, sizes in bytes."""
    return {
        "device": plan.target.placement.device.type,
        "context": plan.context,
        "context_is_assumed": plan.assumed,
        "models": [
            {
                "role": role,
                "id": model.checkpoint.ref.name,
                "dtype": str(model.placement.dtype).removeprefix("torch."),
                "quant": model.placement.quant,
                "weights": model.footprint.weights,
                "tokenizer": model.footprint.tokenizer,
                "cache": model.footprint.cache,
                "loading": model.footprint.loading,
                "passing": model.footprint.passing,
                "download": model.download,
            }
            for role, model in zip(("target", "draft"), plan.models, strict=False)
        ],
        "total": plan.total,
        "free": plan.free,
        "fits": plan.fits,
    }


def _print(figures: dict[str, Any]) -> None:
    from specgen.core.words import format_bytes
    from specgen.render.terminal import sanitize

    for model in figures["models"]:
        form = model["dtype"] if model["quant"] == "none" else model["quant"]
        line = f"{format_bytes(model['weights'])} of weights, {format_bytes(model['cache'])} of cache, {form}"
        more = f", {format_bytes(model['download'])} to download" if model["download"] else ""
        typer.echo(f"{model['role']:<9} {sanitize(model['id'])}: {line}{more}")
    assumed = " (assumed; --ctx-size plans for another)" if figures["context_is_assumed"] else ""
    typer.echo(f"{'context':<9} {figures['context']} tokens{assumed}")
    typer.echo(f"{'total':<9} {format_bytes(figures['total'])} at most, while loading or with a full context")
    typer.echo(f"{'free':<9} {format_bytes(figures['free'])} on {figures['device']}")
    if figures["fits"]:
        typer.echo(f"{'verdict':<9} fits")
        return
    alone = len(figures["models"]) > 1 and figures["target_alone_fits"]
    would = " or ".join([*figures["would_fit"], *(["--draft lookup"] if alone else [])])
    typer.echo(f"{'verdict':<9} does not fit; {f'this does: {would}' if would else 'no smaller setting fits either'}")
