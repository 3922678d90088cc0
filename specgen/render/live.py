"""Events on a terminal: the streamed text, a live line below it, and a summary after it."""

from time import monotonic, sleep
from typing import TextIO

from specgen.core.events import Event, Failed, Finished, Notice, Progress, Started, Stats, Step, Suspended
from specgen.render.cursor import StatusLine
from specgen.render.markdown_output import MarkdownOutput
from specgen.render.progress import ProgressLine
from specgen.render.summary import SummaryForm, live_line, summary
from specgen.render.terminal import (
    ColorChoice,
    can_draw,
    columns,
    dim,
    is_pipe,
    is_terminal,
    put,
    sanitize,
    wants_color,
)
from specgen.render.text import TextOutput, appears_on_screen

_REDRAW_S = 0.1  # faster changes cannot be read
_READER_S = 0.02  # time for a pipe's reader to show text on the terminal


class Live:
    """For a terminal on `stdout`, `stderr` or both: text to `stdout`, everything else to `stderr`.

    Text for a terminal is sanitized. A terminal on stderr gets progress, the live line and notices. Notices wait for
    the end of text on the screen. Without `stream`, the text is written when the answer ends, after success or failure.
    For `sources`, `thinking` and `markdown` see make_renderer.
    """

    def __init__(  # noqa: PLR0913 - one keyword a flag
        self,
        stdout: TextIO,
        stderr: TextIO,
        *,
        stream: bool = True,
        quiet: bool = False,
        form: SummaryForm = "full",
        color: ColorChoice = "auto",
        sources: bool = False,
        thinking: bool = True,
        markdown: bool = False,
    ) -> None:
        self._stderr = stderr
        self._quiet = quiet
        self._form: SummaryForm = form
        self._color = wants_color(stderr, color)
        self._draws = can_draw(stderr) and not quiet
        self._read_by_other = is_pipe(stdout)
        self._on_screen = stream and appears_on_screen(stdout)
        self._progress = ProgressLine(stderr, color=color)
        self._status = StatusLine(stderr, below=self._on_screen, color=self._color)
        screen = stdout if is_terminal(stdout) else stderr
        make_room = self._status.erase if self._on_screen else lambda: None
        renders = markdown and not sources and can_draw(stdout) and wants_color(stdout, color)
        kind = MarkdownOutput if renders else TextOutput
        self._text = kind(stdout, screen, make_room, stream=stream, color=color, sources=sources, thinking=thinking)
        self._held_notices: list[Notice] = []
        self._started: Started | None = None
        self._reset()

    def show(self, event: Event) -> None:
        if not isinstance(event, Progress | Notice):
            self._progress.close()
        match event:
            case Progress() if self._draws and self._started is None:
                self._progress.show(event)
            case Notice() if not self._quiet:
                self._notice(event)
            case Started():
                self._started, self._began = event, monotonic()
                self._draw(f"{event.prompt_tokens} prompt tokens", self._began)
            case Step():
                self._step(event)
            case Suspended():
                self._status.erase()
                self._text.suspend()
            case Finished():
                self._end(summary(self._started, event, self._form, self._columns()))
            case Failed():
                self._end()

    def close(self) -> None:
        """Erase what was drawn and end the line of the text. May be called twice."""
        self._progress.close()
        self._end()

    def _reset(self) -> None:
        self._started = None
        self._stats = Stats()
        self._began = monotonic()
        self._drawn_at = self._began

    def _notice(self, notice: Notice) -> None:
        if self._started and self._on_screen and is_terminal(self._stderr):
            self._held_notices.append(notice)
        else:
            self._status.erase()
            self._progress.show(notice)

    def _step(self, step: Step) -> None:
        now = monotonic()
        self._stats = self._stats.add(step, now - self._began)
        if self._read_by_other:  # draw before this text is on its way to the terminal
            self._refresh(now)
            self._text.write(step.spans)
        else:
            self._text.write(step.spans)
            self._refresh(now)

    def _refresh(self, now: float) -> None:
        if not self._status.drawn or now - self._drawn_at >= _REDRAW_S:
            drafter = self._started.drafter if self._started else "none"
            self._draw(live_line(self._stats, drafter, columns(self._stderr)), now)

    def _draw(self, line: str, now: float) -> None:
        if self._draws and (self._text.cursor.is_free or not self._on_screen):
            self._status.draw(line)
            self._drawn_at = now

    def _end(self, lines: str = "") -> None:
        self._status.erase()
        line_is_open = self._text.end()
        if line_is_open and self._draws and (lines or self._held_notices):
            sleep(_READER_S)
            put(self._stderr, "\n")
        while self._held_notices:
            self._progress.show(self._held_notices.pop(0))
        if lines:
            put(self._stderr, dim(sanitize(lines), self._color))
        self._reset()

    def _columns(self) -> int | None:
        return columns(self._stderr) if is_terminal(self._stderr) else None
