"""specgen run: one prompt, one answer."""

import dataclasses
import functools
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from specgen.cli.configured import typed
from specgen.cli.constraints import check_complete, read_constraint
from specgen.cli.default_model import named_model
from specgen.cli.inputs import gather
from specgen.cli.options import (
    ConstraintOptions,
    CostOptions,
    GenerationOptions,
    InputOptions,
    KeepAlive,
    ModelOptions,
    OneShotOptions,
    OutputOptions,
    ThinkingOptions,
    grouped,
    seconds,
)
from specgen.cli.templating import current, filled, save
from specgen.cli.ui import warn
from specgen.core.defaults import KEEP_ALIVE
from specgen.core.errors import INTERRUPTED, NoCodeBlock, UsageError
from specgen.core.events import Failed, Finished, Renderer
from specgen.render.terminal import is_terminal, put, put_exact, sanitize

if TYPE_CHECKING:
    from specgen.cli.continuing import Earlier
    from specgen.config.templates import Template
    from specgen.render.code import FirstBlock


@grouped
def command(  # noqa: PLR0913, PLR0917 - one parameter a group of options
    context: typer.Context,
    models: ModelOptions,
    generation: GenerationOptions,
    thinking: ThinkingOptions,
    constraint: ConstraintOptions,
    inputs: InputOptions,
    output: OutputOptions,
    one_shot: OneShotOptions,
    costs: CostOptions,
    prompt: Annotated[list[str] | None, typer.Argument(metavar="PROMPT", help="What to say to the model.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line instead of text.")] = False,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Write the text when it is complete.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Print the summary in a pipe too.")] = False,
    keep_alive: KeepAlive = KEEP_ALIVE,
) -> None:
    """Answer one prompt and stream the text to stdout.

    Piped stdin goes before PROMPT, after a blank line; stdin alone is the prompt.

    Examples:

        specgen -m stories "Once upon a time"
        specgen run -m stories -n 40 --temp 0.8 --seed 7 --stats "The old king"
        specgen run -m stories --json -d none "There was a fox"
        specgen run -m org/target -d org/draft "Why is the sky blue?"
        git diff | specgen -m ./target "Write a commit message" > message.txt
        specgen -c "And in one sentence?"
        specgen --temp 0 --save commit "Write a commit message for this diff: {input}"
    """
    if one_shot.save is not None:
        if inputs.file:
            raise UsageError("a template keeps no files", hint="leave out -f, and name files when you use it")
        save(current(context, one_shot.save, prompt or []))
        return
    from specgen.cli.continuing import last_conversation

    text, system = filled(one_shot.template, one_shot.variable, gather(prompt or [], inputs.file), inputs.system)
    earlier = last_conversation() if one_shot.continue_ else None
    models = _paired(context, models, one_shot.template, earlier)
    if text is None and not (earlier and earlier.raw):
        if is_terminal(sys.stdin):
            typer.echo(f"{context.get_help()}\n", err=True)
        raise UsageError(
            "there is no prompt", hint='say something: specgen "PROMPT", or pipe it in; see specgen run --help'
        )
    target = named_model(models)
    wanted = read_constraint(constraint)
    prices = costs.prices()

    from specgen.cli.stream import play
    from specgen.history.recorder import Recorder
    from specgen.render import make_renderer
    from specgen.render.code import FirstBlock
    from specgen.render.trace import Trace
    from specgen.serve.background.client import BackgroundSession

    about = {"kind": "run", "template": one_shot.template.name if one_shot.template else None}
    with (
        Recorder("run", warn, on=not output.no_log, template=about["template"]) as recorder,
        Trace(output.trace) as trace,
        BackgroundSession(target, models.draft, models.engine(), seconds(keep_alive)) as session,
    ):
        renderer = make_renderer(
            stdout=sys.stdout,
            stderr=sys.stderr,
            json=json,
            stream=not no_stream,
            quiet=output.quiet,
            stats=stats,
            color=output.color.value,
            sources=output.color_source,
            thinking=not thinking.hide_thinking,
            about=about,
        )
        block = FirstBlock(renderer) if one_shot.extract_code else None
        answer = functools.partial(earlier.go_on, session) if earlier else session.generate
        events = answer(
            text or "",
            system=system,
            raw=inputs.raw,
            sampling=generation.sampling(),
            max_new_tokens=generation.max_tokens,
            stop=generation.stop,
            think=thinking.think,
            constraint=wanted,
            code_alone=one_shot.extract_code,
        )
        shown: Renderer = block or renderer
        if prices is not None and not output.quiet:
            from specgen.cli.cost import Costed

            shown = Costed(shown, sys.stderr, prices)
        last = play(events, recorder.along(trace.along(shown)), session.stop)
        if isinstance(last, Failed):
            raise last.error
        _hand_over(one_shot, last, block, quiet=output.quiet)
    if last.reason == "interrupted":
        raise typer.Exit(INTERRUPTED)
    check_complete(last)


def _hand_over(one_shot: OneShotOptions, last: Finished, block: "FirstBlock | None", *, quiet: bool) -> None:
    """What is left to do with an answer that is out. Raises NoCodeBlock, and SpecgenError where it cannot be copied."""
    from specgen.render.clipboard import copy

    if block and block.missing is not None:
        text = block.missing.rstrip("\n") + "\n"
        put_exact(sys.stderr, sanitize(text) if is_terminal(sys.stderr) else text)
        if last.reason != "interrupted":
            raise NoCodeBlock("the answer has no code block", hint="it stands above, on stderr")
    elif one_shot.copy:
        by = copy(block.code if block else last.text, sys.stderr if is_terminal(sys.stderr) else sys.stdout)
        if not quiet:
            put(sys.stderr, f"specgen: copied by {by}\n")


def _paired(
    context: typer.Context, models: ModelOptions, template: "Template | None", earlier: "Earlier | None"
) -> ModelOptions:
    """The models of the command line, else of the earlier conversation; a draft is of use to its own target alone."""
    if not typed(context, "model"):
        if earlier is None:
            return models
        draft = models.draft if typed(context, "draft") else earlier.draft
        return dataclasses.replace(models, model=earlier.model, draft=draft)
    if template and "draft" in template.options and not typed(context, "draft"):
        return dataclasses.replace(models, draft=ModelOptions().draft)
    return models
