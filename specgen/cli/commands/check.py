"""specgen check: is the text with speculation the text without it?"""

import dataclasses
from typing import Annotated

import typer

from specgen.cli.default_model import named_model
from specgen.cli.options import ModelOptions, grouped
from specgen.core.defaults import SUITE, SUITE_TOKENS
from specgen.core.errors import UsageError
from specgen.core.types import SamplingParams

_SAMPLING = SamplingParams()
_TEMPERATURE = 0.8


@grouped
def command(  # noqa: PLR0913, PLR0917 - one parameter an option
    models: ModelOptions,
    prompt: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="Prompts to check instead of a suite.")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="SUITE", help="'quick', the default, or 'full', which come with specgen, or a file of JSON lines."
        ),
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only prompts of this category. Repeatable.")
    ] = None,
    prompts: Annotated[int | None, typer.Option(min=1, metavar="N", help="At most N prompts in all.")] = None,
    last: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Read only the last N tokens of a prompt.")
    ] = None,
    drafters: Annotated[
        str | None, typer.Option(metavar="LIST", help="Of model,lookup,hybrid; the pair's own by default.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("-n", "--max-tokens", min=1, metavar="N", help="Tokens to generate at most.")
    ] = SUITE_TOKENS,
    seeds: Annotated[
        str, typer.Option(metavar="LIST", help="Seeds of the sampled runs, beside the greedy one.")
    ] = "1,2",
    temperature: Annotated[
        float,
        typer.Option("--temp", "--temperature", min=0.0, metavar="T", help="Of the sampled runs; 0: greedy alone."),
    ] = _TEMPERATURE,
    top_k: Annotated[
        int, typer.Option(min=0, metavar="K", help="Draw from the K likeliest; 0: all.")
    ] = _SAMPLING.top_k,
    top_p: Annotated[
        float, typer.Option(min=0.0, max=1.0, metavar="P", help="Draw from the likeliest that hold P together.")
    ] = _SAMPLING.top_p,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Answer prompts with and without speculation and compare the texts.

    Says where they part, and whether floating point explains it. Exit code 1 where it does not.

    Examples:

        specgen check -m stories -n 16 "Once upon a time"
        specgen check -m org/target -d org/draft --seeds 1,2,3 --temp 1 --json
    """
    target = named_model(models)
    if prompt and (suite or category):
        raise UsageError("prompts and a suite at once", hint="give the prompts, or --suite and --category")
    samplings = _samplings(seeds, temperature, top_k, top_p)

    from specgen.check.check import CheckSettings
    from specgen.cli.checking import play_check

    settings = CheckSettings(
        target=target,
        draft=models.draft,
        engine=models.engine(),
        texts=tuple(prompt or ()),
        suite=suite or SUITE,
        categories=tuple(category or ()),
        most=prompts,
        last=last,
        drafters=tuple(name.strip() for name in drafters.split(",")) if drafters is not None else (),
        max_new_tokens=max_tokens,
        samplings=samplings,
    )
    raise typer.Exit(play_check(settings, json=json))


def _samplings(seeds: str, temperature: float, top_k: int, top_p: float) -> tuple[SamplingParams, ...]:
    """The greedy run, and one a seed. Raises UsageError."""
    given = [seed.strip() for seed in seeds.split(",")]
    if not all(seed.isdecimal() for seed in given):
        raise UsageError(f"--seeds is '{seeds}'", hint="give numbers parted by commas, such as 1,2,3")
    greedy = SamplingParams()
    if temperature == 0.0:
        return (greedy,)
    drawn = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p)
    return (greedy, *(dataclasses.replace(drawn, seed=int(seed)) for seed in dict.fromkeys(given)))
