"""specgen chat: a conversation in the terminal."""

import sys
from typing import Annotated

import typer

from specgen.cli.constraints import read_constraint
from specgen.cli.options import ConstraintOptions, GenerationOptions, ModelOptions, OutputOptions, grouped, named_model


@grouped
def command(
    models: ModelOptions,
    generation: GenerationOptions,
    constraint: ConstraintOptions,
    output: OutputOptions,
    system: Annotated[str | None, typer.Option("-s", "--system", metavar="TEXT", help="System prompt.")] = None,
) -> None:
    """Talk with a model; each answer streams, and the conversation is kept.

    Lines on stdin are turns too when it is no terminal. /help in the chat lists its commands.

    Example:

        specgen chat -m org/target -d org/draft -s "Be brief."
    """
    target = named_model(models)
    wanted = read_constraint(constraint)

    from specgen.cli.repl import Repl, line_reader
    from specgen.conversation import Conversation
    from specgen.events import Renderer
    from specgen.render import make_renderer
    from specgen.render.trace import Trace
    from specgen.session import Session

    with Trace(output.trace) as trace, Session(target, models.draft, models.engine()) as session:

        def painted(sources: bool) -> Renderer:
            renderer = make_renderer(
                stdout=sys.stdout,
                stderr=sys.stderr,
                json=False,
                stream=True,
                quiet=output.quiet,
                stats=False,
                color=output.color.value,
                sources=sources,
                summary="short",
            )
            return trace.along(renderer)

        opening = painted(False)
        try:
            for event in session.open():
                opening.show(event)
        finally:
            opening.close()
        conversation = Conversation(
            session,
            system=system,
            sampling=generation.sampling(),
            max_new_tokens=generation.max_tokens,
            stop=generation.stop,
            constraint=wanted,
        )
        Repl(
            session, conversation, painted, line_reader(), color=output.color.value, sources=output.color_source
        ).loop()
