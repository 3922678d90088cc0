"""specgen run: answer one prompt."""

import dataclasses
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specgen.cli.default_model import named_model
from specgen.cli.inputs import gather, read_constraint
from specgen.cli.option_values import typed
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
from specgen.cli.stream import check_complete, play
from specgen.cli.template_options import current, filled, save
from specgen.cli.ui import warn
from specgen.core.defaults import KEEP_ALIVE
from specgen.core.errors import INTERRUPTED, NoCodeBlock, UsageError
from specgen.core.events import Event, Failed, Finished, Renderer
from specgen.core.types import Message, ModelRef
from specgen.core.words import shorten
from specgen.render.terminal import is_terminal, put, put_exact, sanitize

if TYPE_CHECKING:
    from specgen.config.templates import Template
    from specgen.history.rows import Turn
    from specgen.render.code import FirstBlock
    from specgen.serve.background.client import BackgroundSession


@grouped
def command(  # noqa: PLR0913, PLR0917 - one parameter for each group of options
    context: typer.Context,
    models: ModelOptions,
    generation: GenerationOptions,
    thinking: ThinkingOptions,
    constraint: ConstraintOptions,
    inputs: InputOptions,
    output: OutputOptions,
    one_shot: OneShotOptions,
    costs: CostOptions,
    prompt: Annotated[list[str] | None, typer.Argument(metavar="PROMPT", help="What to ask the model.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Write JSON lines instead of text.")] = False,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Write the text when it is complete.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Print the summary in a pipe too.")] = False,
    keep_alive: KeepAlive = KEEP_ALIVE,
) -> None:
    """Answer one prompt and stream the text to stdout.

    Piped stdin goes before PROMPT, with a blank line between; stdin alone is the prompt. Inside a shell loop that reads
    stdin, add < /dev/null.

    Examples:

        specgen -m stories "Once upon a time"
        specgen run -m stories -n 40 --temp 0.8 --seed 7 --stats "The old king"
        specgen run -m stories --json -d none "There was a fox"
        specgen run -m org/target -d org/draft "Why is the sky blue?"
        git diff | specgen -m ./target "Write a commit message" > message.txt
        specgen -c "And in one sentence?"
        specgen --continue-from 12 "And in French?"
        specgen --temp 0 --save commit "Write a commit message for this diff: {input}"
    """
    if one_shot.save is not None:
        if inputs.file:
            raise UsageError("a template cannot contain files", hint="leave out -f, and name files when you use it")
        save(current(context, one_shot.save, prompt or []))
        return
    text, system = filled(
        one_shot.template, one_shot.variable, gather(prompt or [], inputs.file, quiet=output.quiet), inputs.system
    )
    earlier = None
    if one_shot.continue_ or one_shot.continue_from is not None:
        earlier = past_conversation(one_shot.continue_from)
        if not output.quiet:
            warn(f"continuing the conversation of answer {earlier.id}: {shorten(earlier.beginning, 60)}")
    models = _models(context, models, one_shot.template, earlier)
    if text is None and not (earlier and earlier.raw):
        if is_terminal(sys.stdin):
            typer.echo(f"{context.get_help()}\n", err=True)
        raise UsageError("there is no prompt", hint='give one: specgen "PROMPT", or pipe it in; see specgen run --help')
    target = named_model(models)
    wanted = read_constraint(constraint)
    prices = costs.prices()

    from specgen.history.recorder import Recorder
    from specgen.render import make_renderer
    from specgen.render.code import FirstBlock
    from specgen.render.trace import Trace
    from specgen.serve.background.client import BackgroundSession

    logs = not output.no_log
    about = {"kind": "run", "template": one_shot.template.name if one_shot.template else None}
    with (
        Recorder("run", warn, on=logs, template=about["template"]) as recorder,
        Trace(output.trace) as trace,
        BackgroundSession(target, models.draft, models.engine(), seconds(keep_alive), uses_history=logs) as session,
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
        recorder.know(earlier.conversation if earlier else ())
        events = answer(
            text or "",
            system=system,
            raw=inputs.raw,
            sampling=generation.sampling(),
            max_new_tokens=generation.max_tokens,
            stop=generation.stop,
            think=thinking.think,
            constraint=wanted,
            code_only=one_shot.extract_code,
        )
        shown: Renderer = block or renderer
        if prices is not None and not output.quiet:
            from specgen.cli.cost import CostRenderer

            shown = CostRenderer(shown, sys.stderr, prices)
        last = play(events, recorder.along(trace.along(shown)), session.stop)
        if isinstance(last, Failed):
            raise last.error
        _extract_or_copy(one_shot, last, block, quiet=output.quiet)
    if last.reason == "interrupted":
        raise typer.Exit(INTERRUPTED)
    check_complete(last)


def _extract_or_copy(one_shot: OneShotOptions, last: Finished, block: "FirstBlock | None", *, quiet: bool) -> None:
    """Finish --extract-code and --copy. Raises NoCodeBlock, and SpecgenError if the copy fails."""
    from specgen.render.clipboard import copy

    if block and block.missing is not None:
        text = block.missing.rstrip("\n") + "\n"
        put_exact(sys.stderr, sanitize(text) if is_terminal(sys.stderr) else text)
        if last.reason != "interrupted":
            raise NoCodeBlock("the answer has no code block", hint="the answer is above, on stderr")
    elif one_shot.copy:
        by = copy(block.code if block else last.text, sys.stderr if is_terminal(sys.stderr) else sys.stdout)
        if not quiet:
            put(sys.stderr, f"specgen: copied by {by}\n")


def _models(
    context: typer.Context, models: ModelOptions, template: "Template | None", earlier: "PastConversation | None"
) -> ModelOptions:
    """The models of the command line, otherwise of the earlier conversation. A draft fits only its own target."""
    if not typed(context, "model"):
        if earlier is None:
            return models
        draft = models.draft if typed(context, "draft") else earlier.draft
        return dataclasses.replace(models, model=earlier.model, draft=draft)
    if template and "draft" in template.options and not typed(context, "draft"):
        return dataclasses.replace(models, draft=ModelOptions().draft)
    return models


@dataclass(frozen=True, slots=True)
class PastConversation:
    """A conversation of the history. `raw`: it has no chat template, so its text is continued as it is.

    `id` is that of its last answer. `model` and `draft` are those of this answer, as -m and -d take them.
    """

    id: int
    conversation: "Sequence[Message | Turn]"
    raw: bool
    model: str
    draft: str

    @property
    def messages(self) -> list[Message]:
        from specgen.history.store import flatten

        return flatten(self.conversation)

    @property
    def beginning(self) -> str:
        """The first text of the conversation, without the system prompt, on one line."""
        first = next((each.content for each in self.messages if each.role != "system" and each.content), "")
        return " ".join(first.split())

    def go_on(
        self, session: "BackgroundSession", text: str, *, system: str | None, raw: bool, **options: Any
    ) -> Iterator[Event]:
        """The events of the answer to `text`, which may be empty if the conversation is raw.

        `system` replaces the old system prompt. Raises UsageError for `raw` after a chat template.
        """
        if self.raw and system:
            raise UsageError("a system prompt needs the chat template", hint="leave out the system prompt")
        if raw and not self.raw:
            raise UsageError("the last conversation has a chat template", hint="leave out --raw, or --continue")
        earlier = [message for message in self.messages if system is None or message.role != "system"]
        return session.continue_conversation(earlier, text, system=system, raw=self.raw, **options)


def past_conversation(id: int | None = None) -> PastConversation:  # noqa: A002
    """The conversation of answer `id`, or of the latest answer of run or chat. Raises UsageError, BadFile."""
    from specgen.config.pairs import pair_of_target
    from specgen.history.recorder import open_history

    with open_history() as answers:
        last = answers.last("run", "chat") if id is None else answers.get(id)
        if last is None and id is not None:
            raise UsageError(f"the history has no answer {id}", hint="specgen log lists them")
        if last is None:
            raise UsageError("there is no conversation to continue", hint="the history is empty; see specgen log")
        conversation = answers.conversation(last.id)
    draft = last.settings["draft"]
    target, drafter = _name(last.settings["target"]), _name(draft) if draft else last.settings["drafter"]
    pair = pair_of_target(ModelRef.parse(target))
    if pair and (target, drafter) == (str(pair.target), str(pair.draft)):
        target, drafter = pair.name, ModelOptions().draft  # as it was named, so that it is not loaded twice
    return PastConversation(last.id, conversation, last.raw, target, drafter)


def _name(model: Mapping[str, str | None]) -> str:
    return str(ModelRef.at(str(model["id"]), model["revision"]))
