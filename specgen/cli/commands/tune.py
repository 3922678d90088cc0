"""specgen tune: the settings that are fastest for a pair on this machine."""

import dataclasses
from typing import Annotated

import typer

from specgen.cli.completion import models as model_names
from specgen.cli.configured import typed
from specgen.cli.default_model import named_model
from specgen.cli.options import ModelOptions, grouped
from specgen.core.errors import UsageError

_MINUTES = 2.0
_TOKENS = 32
_SUITE = "quick"


@grouped
def command(  # noqa: PLR0913, PLR0917 - one parameter an option
    context: typer.Context,
    models: ModelOptions,
    pair: Annotated[
        str | None,
        typer.Argument(metavar="PAIR", autocompletion=model_names, help="Short for -m: a target, its draft by -d."),
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.05, metavar="M", help="Measure for so long at most; loading is not counted.")
    ] = _MINUTES,
    suite: Annotated[
        str, typer.Option(metavar="SUITE", help="Prompts to tune for: 'quick', 'full', or a file of JSON lines.")
    ] = _SUITE,
    max_tokens: Annotated[
        int, typer.Option("-n", "--max-tokens", min=2, metavar="N", help="Tokens to generate at most.")
    ] = _TOKENS,
    allow_quant: Annotated[
        bool,
        typer.Option(
            "--allow-quant",
            help="Keep another quantisation than the default where it is faster: the target then computes other"
            " numbers, and may write another text.",
        ),
    ] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Drop what was found for this pair; measure nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Search for the settings that are fastest for a pair on this machine, and keep them.

    Draft length, lookup and threads are tried, quantisation is measured. What is better than the defaults beyond noise,
    with the same text, is kept: run, chat, map and serve take it for what neither an option nor a setting says.
    `specgen show` shows it. Options given here stay as given.

    Examples:

        specgen tune stories
        specgen tune org/target -d org/draft --minutes 5
        specgen tune stories --reset
    """
    if pair is not None:
        if typed(context, "model"):
            raise UsageError("a pair and -m at once", hint="leave one out")
        models = dataclasses.replace(models, model=pair)
    target = named_model(models)
    if reset:
        from specgen.cli.tuned import reset_tuned

        reset_tuned(target, models.draft, json=json)
        return
    from specgen.bench.tuning import TuneSettings
    from specgen.cli.tuning import play_tune

    settings = TuneSettings(
        target=target,
        draft=models.draft,
        engine=models.engine(),
        suite=suite,
        minutes=minutes,
        max_new_tokens=max_tokens,
        allow_quant=allow_quant,
    )
    raise typer.Exit(play_tune(settings, json=json))
