"""Progress of slow work on a terminal, as a bar or a spinner; in a pipe only notices."""

from typing import TextIO

from rich.console import Console, RenderableType
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import (
    Progress as Bars,
)
from rich.table import Column
from rich.text import Text

from specgen.core.events import Event, Notice, Progress
from specgen.render.terminal import ColorChoice, can_draw, columns, is_terminal, put, sanitize, wants_color

_HOUR = 3600.0  # rich forgets samples after 30 s, and a record may take longer


class _WhenKnown(ProgressColumn):
    """A column that is shown only for work of known size."""

    def __init__(self, column: ProgressColumn) -> None:
        super().__init__(Column(no_wrap=True))
        self._column = column

    def render(self, task: Task) -> RenderableType:
        return self._column.render(task) if task.total is not None else ""


class _Amount(DownloadColumn):
    """The bytes so far, with the total if it is known."""

    def render(self, task: Task) -> Text:
        if task.total is not None:
            return super().render(task)
        return Text(decimal(int(task.completed)) if task.completed else "")


class ProgressLine:
    """Shows Progress and Notice events on `stream`, usually stderr. Ignores other events.

    On a terminal, Progress is one line: a bar with amount and rate, or a spinner if the size is unknown. The line
    disappears with done == total, with close(), or with other work. Elsewhere, Progress shows nothing. A Notice is a
    line `specgen: <text>`. Close it before anything else writes to the terminal; it opens again by itself.
    """

    def __init__(self, stream: TextIO, *, color: ColorChoice = "auto") -> None:
        self._stream = stream
        self._color = wants_color(stream, color)
        self._bars: Bars | None = None
        self._what: str | None = None

    def show(self, event: Event) -> None:
        if isinstance(event, Notice):
            self._notice(event.text)
        elif isinstance(event, Progress) and can_draw(self._stream):
            self._progress(event)

    def close(self) -> None:
        """Erase the progress and show the cursor again. May be called twice."""
        if self._bars is not None:
            bars, self._bars = self._bars, None
            self._what = None
            bars.stop()

    def _notice(self, text: str) -> None:
        text = sanitize(text) if is_terminal(self._stream) else text
        if self._bars is not None:
            self._bars.console.print(Text(f"specgen: {text}"), soft_wrap=True)
        else:
            put(self._stream, f"specgen: {text}\n")

    def _progress(self, event: Progress) -> None:
        total = event.total or None
        if total is not None and event.done >= total:
            self.close()
            return
        if self._bars is None:
            self._bars = self._layout()
            self._bars.start()
        if event.what == self._what:
            self._bars.update(self._bars.task_ids[0], completed=event.done, total=total)
            return
        for task in self._bars.task_ids:
            self._bars.remove_task(task)
        self._what = event.what
        self._bars.add_task(sanitize(event.what).replace("\n", " "), completed=event.done, total=total)

    def _layout(self) -> Bars:
        console = Console(
            file=self._stream, force_terminal=True, color_system="auto" if self._color else None, highlight=False
        )
        wide = columns(self._stream) >= 80
        unicode = (self._stream.encoding or "").lower().startswith("utf")
        return Bars(
            SpinnerColumn("dots" if unicode else "line"),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            *([_WhenKnown(BarColumn(bar_width=20))] if wide else []),
            _Amount(table_column=Column(no_wrap=True)),
            _WhenKnown(TransferSpeedColumn()),
            *([_WhenKnown(TimeRemainingColumn(compact=True))] if wide else []),
            console=console,
            transient=True,
            redirect_stdout=False,  # text goes to stdout itself, not to a proxy
            redirect_stderr=False,
        )


class RecordBar:
    """A bar over `total` records (None: unknown) with the time left. It draws only on a terminal.

    Close it before anything else writes to the terminal. The next show() draws it again.
    """

    def __init__(self, stream: TextIO, total: int | None, done: int) -> None:
        self._bars: Bars | None = None
        if not can_draw(stream):
            return
        console = Console(
            file=stream,
            force_terminal=True,
            color_system="auto" if wants_color(stream, "auto") else None,
            highlight=False,
        )
        known = total is not None
        self._bars = Bars(
            MofNCompleteColumn() if known else TextColumn("{task.completed}"),
            TextColumn("records"),
            *([BarColumn(bar_width=20)] if known and columns(stream) >= 60 else []),
            TextColumn("{task.description}"),
            *([TimeRemainingColumn(compact=True), TextColumn("left")] if known else []),
            console=console,
            transient=True,
            refresh_per_second=1,  # drawing costs decoding time
            speed_estimate_period=_HOUR,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bars.add_task("", total=total, completed=done)

    def show(self, done: int, tokens_per_second: float) -> None:
        """Draw `done` finished records."""
        if self._bars is not None:
            speed = f"{tokens_per_second:.1f} tok/s" if tokens_per_second else ""
            self._bars.update(self._bars.task_ids[0], completed=done, description=speed)
            self._bars.start()

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
