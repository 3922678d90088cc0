"""specgen check: compares the texts with and without speculation."""

import dataclasses
import json as json_format
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from specgen.cli.default_model import named_model
from specgen.cli.options import ModelOptions, grouped
from specgen.core.defaults import SUITE, SUITE_TOKENS
from specgen.core.errors import INTERRUPTED, UsageError
from specgen.core.types import SamplingParams
from specgen.render.terminal import put_exact, sanitize

if TYPE_CHECKING:
    from specgen.check.check import CheckSettings

_SAMPLING = SamplingParams()
_TEMPERATURE = 0.8
_FAILED = 1  # exit code


@grouped
def command(  # noqa: PLR0913, PLR0917 - one parameter an option
    models: ModelOptions,
    prompt: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="Prompts to check instead of a suite.")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(metavar="SUITE", help="'quick' (the default), 'full' or a file of JSON lines."),
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Use only prompts of this category. Repeatable.")
    ] = None,
    prompts: Annotated[int | None, typer.Option(min=1, metavar="N", help="Use at most N prompts in all.")] = None,
    last: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Read only the last N tokens of a prompt.")
    ] = None,
    drafters: Annotated[
        str | None, typer.Option(metavar="LIST", help="Of model,lookup,hybrid,history. Default: that of the pair.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("-n", "--max-tokens", min=1, metavar="N", help="Generate at most N tokens.")
    ] = SUITE_TOKENS,
    seeds: Annotated[
        str, typer.Option(metavar="LIST", help="Seeds of the sampled runs. A greedy run is always included.")
    ] = "1,2",
    temperature: Annotated[
        float,
        typer.Option(
            "--temp",
            "--temperature",
            min=0.0,
            metavar="T",
            help="Temperature of the sampled runs; 0 checks the greedy run only.",
        ),
    ] = _TEMPERATURE,
    top_k: Annotated[
        int, typer.Option(min=0, metavar="K", help="Sample from the K likeliest tokens; 0 is all.")
    ] = _SAMPLING.top_k,
    top_p: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, metavar="P", help="Sample from the likeliest tokens of total probability P."),
    ] = _SAMPLING.top_p,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Answer prompts with and without speculation and compare the texts.

    Reports the first token that differs and whether rounding explains it. If not, the exit code is 1, also if nothing
    was drafted at all. Without -k every round drafts 4 tokens.

    Examples:

        specgen check -m stories -n 16 "Once upon a time"
        specgen check -m org/target -d org/draft --seeds 1,2,3 --temp 1 --json
    """
    target = named_model(models)
    if prompt and (suite or category):
        raise UsageError("prompts and a suite exclude each other", hint="give prompts, or --suite and --category")
    samplings = _samplings(seeds, temperature, top_k, top_p)

    from specgen.check.check import CheckSettings

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
    raise typer.Exit(_run(settings, json=json))


def _samplings(seeds: str, temperature: float, top_k: int, top_p: float) -> tuple[SamplingParams, ...]:
    """Return the greedy sampling and one sampling per seed. Raises UsageError."""
    given = [seed.strip() for seed in seeds.split(",")]
    if not all(seed.isdecimal() for seed in given):
        raise UsageError(f"--seeds is '{seeds}'", hint="give numbers separated by commas, such as 1,2,3")
    greedy = SamplingParams()
    if temperature == 0.0:
        return (greedy,)
    drawn = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p)
    return (greedy, *(dataclasses.replace(drawn, seed=int(seed)) for seed in dict.fromkeys(given)))


def _run(settings: "CheckSettings", *, json: bool) -> int:
    """Check, print each difference when it is found and a summary at the end. Return the exit code.

    Ctrl-C ends the check with the results so far. Raises SpecgenError.
    """
    from specgen.check.check import CheckResult, CheckStarted, check
    from specgen.check.report import difference_line, drafted_tokens, real_differences, report_data, summary
    from specgen.render.progress import ProgressLine

    results: list[CheckResult] = []
    started: CheckStarted | None = None
    interrupted = False
    progress = ProgressLine(sys.stderr)
    events = check(settings)
    try:
        for event in events:
            if isinstance(event, CheckStarted):
                started = event
            elif not isinstance(event, CheckResult):
                progress.show(event)
            else:
                results.append(event)
                if event.difference and not json:
                    progress.close()
                    put_exact(sys.stdout, sanitize(difference_line(event)) + "\n")
    except KeyboardInterrupt:
        interrupted = True
    finally:
        progress.close()
        events.close()
    if json:
        report = json_format.dumps(report_data(settings, started, results, whole=not interrupted), indent=2)
        put_exact(sys.stdout, report + "\n")
    else:
        put_exact(sys.stdout, sanitize(summary(results, started)) + "\n")
    if interrupted:
        return INTERRUPTED
    return _FAILED if real_differences(results) or not drafted_tokens(results) else 0
