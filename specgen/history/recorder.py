"""The history as commands use it: what a renderer shows is logged once it is out, and can be read."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import asdict
from time import perf_counter
from typing import Self

from specgen.core.errors import BadFile
from specgen.core.events import Event, Failed, Finished, Renderer, Started, Stats, Step, stats_fields
from specgen.history.store import History, Kind, location, logging_is_on

_NOT_SETTINGS = ("messages", "raw", "prompt_tokens")


class Recorder:
    """Logs one answer after the other, unless it is off or the user has switched logging off.

    A history that cannot be written never costs the text: `warn` gets one sentence.
    """

    def __init__(self, kind: Kind, warn: Callable[[str], object], *, on: bool, template: str | None = None) -> None:
        self._kind: Kind = kind
        self._warn = warn
        self._on = on
        self._template = template
        self._history: History | None = None
        self._told = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def along(self, renderer: Renderer) -> Renderer:
        """`renderer`, with every answer that it shows logged when it is closed, also one that was broken off."""
        return _Along(renderer, self) if self._on else renderer

    def write(self, started: Started, output: str, reason: str, stats: Stats) -> None:
        """Log an answer now."""
        settings = {name: value for name, value in asdict(started).items() if name not in _NOT_SETTINGS}
        try:
            if not self._on or not started.messages or not logging_is_on():
                return
            self._history = self._history or History(location())
            self._history.add(
                kind=self._kind,
                template=self._template,
                messages=started.messages,
                raw=started.raw,
                output=output,
                reason=reason,
                settings=settings,
                stats=stats_fields(stats),
            )
        except (sqlite3.Error, OSError) as error:
            self._tell(f"this answer is not in the history: {location()}: {error}; --no-log keeps it out")
            self._close()

    def _close(self) -> None:
        if self._history is not None:
            with contextlib.suppress(sqlite3.Error):
                self._history.close()
        self._history = None

    def _tell(self, line: str) -> None:
        if line != self._told:
            self._warn(line)
        self._told = line


class _Along:
    def __init__(self, renderer: Renderer, recorder: Recorder) -> None:
        self._renderer = renderer
        self._recorder = recorder
        self._started: Started | None = None

    def show(self, event: Event) -> None:
        match event:
            case Started():
                self._started, self._began = event, perf_counter()
                self._text: list[str] = []
                self._stats, self._reason = Stats().add(event), "interrupted"
            case Step():
                self._text.append(event.text)
                self._stats = self._stats.add(event, perf_counter() - self._began)
            case Finished():
                self._stats, self._reason = event.stats, event.reason
            case Failed():
                self._reason = "failed"
        self._renderer.show(event)

    def close(self) -> None:
        try:
            self._renderer.close()
        finally:
            started, self._started = self._started, None
            if started and self._stats.rounds:
                self._recorder.write(started, "".join(self._text), self._reason, self._stats)


@contextlib.contextmanager
def history() -> Iterator[History]:
    """The history, to read or to change. Raises BadFile where that cannot be done."""
    try:
        opened = History(location())
    except (sqlite3.Error, OSError) as error:
        raise _unreadable(error) from error
    with opened:
        try:
            yield opened
        except sqlite3.Error as error:
            raise _unreadable(error) from error


def _unreadable(error: Exception) -> BadFile:
    busy = "locked" in str(error)
    hint = "another specgen is writing: try again" if busy else "move the file away, and a new one begins"
    return BadFile(f"cannot read the history in {location()}: {error}", hint=hint)
