"""How far a map is: a bar over its records, with the time left, on a terminal."""

from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from specgen.render.terminal import can_draw, columns, wants_color

_HOUR = 3600.0  # rich forgets after 30 s, and a record may take longer


class RecordBar:
    """A bar on `stream` over `total` records, None where nobody knows. It draws nothing where there is no terminal.

    close() erases it, and the next show() brings it back: close it before anything else writes to the terminal.
    """

    def __init__(self, stream: TextIO, total: int | None, done: int) -> None:
        self._bars: Progress | None = None
        if not can_draw(stream):
            return
        console = Console(
            file=stream,
            force_terminal=True,
            color_system="auto" if wants_color(stream, "auto") else None,
            highlight=False,
        )
        known = total is not None
        self._bars = Progress(
            MofNCompleteColumn() if known else TextColumn("{task.completed}"),
            TextColumn("records"),
            *([BarColumn(bar_width=20)] if known and columns(stream) >= 60 else []),
            TextColumn("{task.description}"),
            *([TimeRemainingColumn(compact=True), TextColumn("left")] if known else []),
            console=console,
            transient=True,
            refresh_per_second=1,  # drawing takes time from decoding
            speed_estimate_period=_HOUR,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bars.add_task("", total=total, completed=done)

    def show(self, done: int, tokens_per_second: float) -> None:
        """`done` records have their result."""
        if self._bars is not None:
            speed = f"{tokens_per_second:.1f} tok/s" if tokens_per_second else ""
            self._bars.update(self._bars.task_ids[0], completed=done, description=speed)
            self._bars.start()

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
