"""specgen run: one prompt, one answer."""

import sys
from typing import Annotated

import typer

from specgen.cli.inputs import gather
from specgen.cli.options import (
    CostOptions,
    GenerationOptions,
    InputOptions,
    ModelOptions,
    OutputOptions,
    grouped,
    named_model,
)
from specgen.errors import INTERRUPTED, UsageError
from specgen.events import Failed
from specgen.render.terminal import is_terminal


@grouped
def command(  # noqa: PLR0913, PLR0917 - one parameter a group of options
    context: typer.Context,
    models: ModelOptions,
    generation: GenerationOptions,
    inputs: InputOptions,
    output: OutputOptions,
    costs: CostOptions,
    prompt: Annotated[list[str] | None, typer.Argument(metavar="PROMPT", help="What to say to the model.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line instead of text.")] = False,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Write the text when it is complete.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Print the summary in a pipe too.")] = False,
) -> None:
    """Answer one prompt and stream the text to stdout.

    Piped stdin goes before PROMPT, after a blank line; stdin alone is the prompt.

    Examples:

        specgen run -m org/target -d org/draft "Why is the sky blue?"

        git diff | specgen -m ./target "Write a commit message" > message.txt
    """
    text = gather(prompt or [], inputs.file)
    if text is None:
        if is_terminal(sys.stdin):
            typer.echo(f"{context.get_help()}\n", err=True)
        raise UsageError(
            "there is no prompt", hint='say something: specgen "PROMPT", or pipe it in; see specgen run --help'
        )
    target = named_model(models)
    prices = costs.prices()

    from specgen.cli.costing import Costed
    from specgen.cli.playing import play
    from specgen.render import make_renderer
    from specgen.render.trace import Trace
    from specgen.session import Session

    with Trace(output.trace) as trace, Session(target, models.draft, models.engine()) as session:
        renderer = make_renderer(
            stdout=sys.stdout,
            stderr=sys.stderr,
            json=json,
            stream=not no_stream,
            quiet=output.quiet,
            stats=stats,
            color=output.color.value,
            sources=output.color_source,
        )
        events = session.generate(
            text,
            system=inputs.system,
            raw=inputs.raw,
            sampling=generation.sampling(),
            max_new_tokens=generation.max_tokens,
            stop=generation.stop,
        )
        if prices is not None and not output.quiet:
            renderer = Costed(renderer, sys.stderr, prices)
        last = play(events, trace.along(renderer), session.stop)
        if isinstance(last, Failed):
            raise last.error
    if last.reason == "interrupted":
        raise typer.Exit(INTERRUPTED)
