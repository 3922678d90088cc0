"""Logging of answers while a renderer shows them, and access to the history for commands."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from time import perf_counter
from typing import Self

from specgen.core.errors import BadFile
from specgen.core.events import Event, Failed, Finished, Renderer, Started, Stats, Step, stats_fields
from specgen.core.types import Message
from specgen.core.words import reason as reason_of
from specgen.history.rows import Kind, Turn
from specgen.history.store import History, location, logging_is_on, with_turns

_NOT_SETTINGS = ("messages", "raw", "prompt_tokens")


class Recorder:
    """Logs answers, unless `on` is false or the user has switched logging off.

    A history that cannot be written never costs the text: `warn` gets one sentence.
    """

    def __init__(self, kind: Kind, warn: Callable[[str], object], *, on: bool, template: str | None = None) -> None:
        self._kind: Kind = kind
        self._warn = warn
        self._on = on
        self._template = template
        self._history: History | None = None
        self._warned = ""
        self._known: dict[tuple[str, str], int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def along(self, renderer: Renderer) -> Renderer:
        """`renderer`, with every answer that it shows logged when it is closed, interrupted ones too."""
        return _RecordingRenderer(renderer, self) if self._on else renderer

    def know(self, conversation: Sequence[Message | Turn]) -> None:
        """Log the turns of this conversation by their ids, so that each text is stored once."""
        self._known |= {(each.prompt, each.output): each.id for each in conversation if isinstance(each, Turn)}

    def write(self, started: Started, output: str, reason: str, stats: Stats, said: str | None = None) -> None:
        """Log an answer. `said` is its text in later turns, with the thinking, where that differs from `output`."""
        settings = {name: value for name, value in asdict(started).items() if name not in _NOT_SETTINGS}
        try:
            if not self._on or not started.messages or not logging_is_on():
                return
            self._history = self._history or History(location())
            *earlier, prompt = started.messages
            id = self._history.add(  # noqa: A001
                kind=self._kind,
                template=self._template,
                messages=[*with_turns(earlier, lambda *turn: self._known.get(turn)), prompt],
                raw=started.raw,
                output=output,
                reason=reason,
                settings=settings,
                stats=stats_fields(stats),
            )
            self._known[prompt.content, output if said is None else said] = id
        except (sqlite3.Error, OSError, ValueError) as error:
            self._warn_once(f"this answer is not in the history: {location()}: {reason_of(error)}; --no-log skips it")
            self._close()

    def _close(self) -> None:
        if self._history is not None:
            with contextlib.suppress(sqlite3.Error):
                self._history.close()
        self._history = None

    def _warn_once(self, sentence: str) -> None:
        if sentence != self._warned:
            self._warn(sentence)
        self._warned = sentence


class _RecordingRenderer:
    """Collects the text and the statistics of each answer for a recorder."""

    def __init__(self, renderer: Renderer, recorder: Recorder) -> None:
        self._renderer = renderer
        self._recorder = recorder
        self._started: Started | None = None

    def show(self, event: Event) -> None:
        match event:
            case Started():
                self._started, self._began = event, perf_counter()
                self._text: list[str] = []
                self._said: list[str] = []
                self._stats, self._reason = Stats().add(event), "interrupted"
            case Step():
                self._text.append(event.text)
                self._said += (span.text for span in event.spans)
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
                self._recorder.write(started, "".join(self._text), self._reason, self._stats, "".join(self._said))


@contextlib.contextmanager
def open_history() -> Iterator[History]:
    """The history, to read or to change. Raises BadFile if that fails."""
    try:
        history = History(location())
    except (sqlite3.Error, OSError) as error:
        raise _unreadable(error) from error
    with history:
        try:
            yield history
        except sqlite3.Error as error:
            raise _unreadable(error) from error


def _unreadable(error: Exception) -> BadFile:
    locked = "locked" in str(error)
    hint = "another specgen is writing: try again" if locked else "move the file away, and a new one begins"
    return BadFile(f"cannot read the history in {location()}: {reason_of(error)}", hint=hint)
