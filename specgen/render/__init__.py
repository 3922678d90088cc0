"""Events shown to terminals, pipes and programs. The text goes to stdout, everything else to stderr."""

from collections.abc import Mapping
from typing import TextIO

from specgen.core.events import Renderer
from specgen.render.summary import SummaryForm
from specgen.render.terminal import ColorChoice, can_draw, is_terminal, wants_color


def make_renderer(  # noqa: PLR0913 - one keyword a flag
    *,
    stdout: TextIO,
    stderr: TextIO,
    json: bool,
    stream: bool,
    quiet: bool,
    stats: bool,
    color: ColorChoice = "auto",
    summary: SummaryForm = "full",
    sources: bool = False,
    thinking: bool = True,
    markdown: bool = False,
    about: Mapping[str, object] | None = None,
) -> Renderer:
    """The renderer that fits `stdout` and `stderr`. It can show several answers, one after the other.

    `json` writes JSON lines and no summary. `stream` false keeps the text back until the answer ends (in JSON: leaves
    the steps out). `quiet` leaves nothing on stderr. `stats` shows the summary where stderr is no terminal, too;
    `summary` says how long it is. `sources` colours text on a terminal by where it came from,
    `thinking` shows what a model thinks aloud there, and `markdown` renders the text of a terminal that knows colours
    and is not painted by source. `about` goes into JSON.
    """
    if json:
        from specgen.render.jsonl import JsonLines  # noqa: PLC0415 - every --help passes here

        progress = _progress_line(stderr, color) if can_draw(stderr) and not quiet else None
        return JsonLines(stdout, progress=progress, steps=stream, about=about)
    form: SummaryForm = summary if not quiet and (stats or is_terminal(stderr)) else "none"
    if is_terminal(stdout) or is_terminal(stderr):
        # Imported here because rich costs 0.08 s, which a pipe need not pay.
        from specgen.render.live import Live  # noqa: PLC0415

        return Live(
            stdout,
            stderr,
            stream=stream,
            quiet=quiet,
            form=form,
            color=color,
            sources=sources,
            thinking=thinking,
            markdown=markdown,
        )
    from specgen.render.plain import Plain  # noqa: PLC0415 - as above

    return Plain(stdout, stderr, stream=stream, quiet=quiet, form=form, color=wants_color(stderr, color))


def _progress_line(stderr: TextIO, color: ColorChoice) -> Renderer:
    from specgen.render.progress import ProgressLine  # noqa: PLC0415 - rich again

    return ProgressLine(stderr, color=color)
