"""specgen chat: talk with a model in the terminal."""

import sys
from typing import Annotated

import typer

from specgen.cli.default_model import named_model
from specgen.cli.inputs import read_constraint
from specgen.cli.options import (
    ConstraintOptions,
    GenerationOptions,
    KeepAlive,
    ModelOptions,
    OutputOptions,
    ThinkingOptions,
    grouped,
    seconds,
)
from specgen.cli.ui import warn
from specgen.core.defaults import KEEP_ALIVE


@grouped
def command(
    models: ModelOptions,
    generation: GenerationOptions,
    thinking: ThinkingOptions,
    constraint: ConstraintOptions,
    output: OutputOptions,
    system: Annotated[str | None, typer.Option("-s", "--system", metavar="TEXT", help="System prompt.")] = None,
    no_markdown: Annotated[bool, typer.Option("--no-markdown", help="Do not render Markdown on a terminal.")] = False,
    keep_alive: KeepAlive = KEEP_ALIVE,
) -> None:
    """Talk with a model. Each answer streams, and the conversation continues.

    A terminal has a line editor with history, and renders Markdown as it arrives. If stdin is not a terminal, each of
    its lines is a turn. /help in the chat lists its commands.

    Examples:

        specgen chat -m stories -n 40
        specgen chat -m org/target -d org/draft -s "Be brief."
    """
    target = named_model(models)
    wanted = read_constraint(constraint)

    from specgen.cli.chat.chat import Chat, Look
    from specgen.cli.chat.commands import completions, run
    from specgen.cli.chat.input import reader
    from specgen.core.events import Renderer
    from specgen.history.recorder import Recorder
    from specgen.render import make_renderer
    from specgen.render.trace import Trace
    from specgen.serve.background.client import BackgroundSession
    from specgen.session.conversation import Conversation

    with Recorder("chat", warn, on=not output.no_log) as recorder, Trace(output.trace) as trace:

        def rendering(look: Look) -> Renderer:
            renderer = make_renderer(
                stdout=sys.stdout,
                stderr=sys.stderr,
                json=False,
                stream=True,
                quiet=output.quiet,
                stats=False,
                color=look.color,
                sources=look.sources,
                summary="short",
                thinking=look.thinking,
                markdown=look.markdown,
            )
            return recorder.along(trace.along(renderer))

        def session(target: str, draft: str) -> BackgroundSession:
            return BackgroundSession(
                target, draft, models.engine(), seconds(keep_alive), uses_history=not output.no_log
            )

        conversation = Conversation(
            session(target, models.draft),
            system=system,
            sampling=generation.sampling(),
            max_new_tokens=generation.max_tokens,
            stop=generation.stop,
            think=thinking.think,
            constraint=wanted,
        )
        look = Look(output.color.value, output.color_source, not no_markdown, not thinking.hide_thinking)
        chat = Chat(conversation, look, rendering, session)
        try:
            chat.show(conversation.session.open())
            chat.loop(reader(completions), run)
        finally:
            conversation.session.close()
