"""Renderers: the text of events to stdout, everything else to stderr."""

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
    """The renderer for these streams. It can show several answers in sequence.

    `json`: JSON lines and no summary. Without `stream`, the text appears when the answer ends; JSON omits the steps.
    `quiet`: nothing on stderr. `stats`: a summary even if stderr is no terminal; `summary` is its length.
    On a terminal, `sources` colours text by its source, `thinking` shows thinking, and `markdown` renders Markdown if
    there are colours and no `sources`. `about` adds fields to `started` in JSON.
    """
    if json:
        from specgen.render.jsonl import JsonLines  # noqa: PLC0415 - not for --help

        progress = _progress_line(stderr, color) if can_draw(stderr) and not quiet else None
        return JsonLines(stdout, progress=progress, steps=stream, about=about)
    form: SummaryForm = summary if not quiet and (stats or is_terminal(stderr)) else "none"
    if is_terminal(stdout) or is_terminal(stderr):
        # Imported here: rich takes 0.08 s, which a pipe does not need.
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
    from specgen.render.progress import ProgressLine  # noqa: PLC0415 - imports rich

    return ProgressLine(stderr, color=color)
