"""The loop of `specgen map`: it answers records, several at once with --batch, and writes results."""

import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from specgen.cli.map.records import Record, Records
from specgen.cli.map.results import Results
from specgen.cli.stream import check_complete, owned_terminal
from specgen.core.errors import TERMINATED, BadFile, Incomplete, PromptTooLong, SomeFailed, UnreadableText, UsageError
from specgen.core.events import Event, Failed, Finished, Notice, Progress, Started
from specgen.history.recorder import Recorder
from specgen.render.progress import ProgressLine, RecordBar
from specgen.render.results import Result, Totals
from specgen.render.terminal import put, sanitize
from specgen.serve.background.client import BackgroundSession

# What generate() raises because of the prompt. BadFile: the tokenizer cannot encode it.
_RECORD_FAULTS = (BadFile, Incomplete, PromptTooLong, UnreadableText, UsageError)


# Records that may be answered before their turn to be written, for each answer of a batch.
_AHEAD = 4


@dataclass(slots=True, eq=False)
class _Pending:
    """A record whose answer runs, or waits to be written. `number` counts records from 1."""

    number: int
    record: Record
    answering: Generator[None, None, Result]
    result: Result | None = None

    def advance(self) -> None:
        """Take one event of the answer."""
        try:
            next(self.answering)
        except StopIteration as finished:
            self.result = finished.value


@dataclass
class Mapper:
    """Answers records with `session`, up to `batch` at once. `prompt` makes the prompt of a record and raises BadFile.

    `generation` are the other arguments of BackgroundSession.generate. With `quiet` stderr gets only errors. Results
    are in the order of records, or `unordered`, each as soon as it is there.
    """

    session: BackgroundSession
    prompt: Callable[[Record], str]
    generation: dict[str, Any]
    results: Results
    recorder: Recorder
    quiet: bool
    stats: bool
    batch: int = 1
    unordered: bool = False
    _told: set[str] = field(default_factory=set)

    def run(self, records: Records) -> None:
        """Answer all records. Raises SomeFailed if some got no answer, SpecgenError for a fault of the model."""
        totals = Totals()
        self._progress = ProgressLine(sys.stderr)
        self._bar = RecordBar(sys.stderr, None, 0)
        began = time.monotonic()
        try:
            with _ended_by_sigterm(), owned_terminal(self._clean) as self._terminal:
                rest = self._without_result(iter(records), totals)
                first = next(rest, None)
                if first is not None:
                    self._open()
                    if not self.quiet:
                        self._bar = RecordBar(sys.stderr, records.total, totals.skipped)
                    began = time.monotonic()
                    self._work(chain([first], rest), totals)
        finally:
            self._progress.close()
            self._bar.close()
            self.results.close()
            if self.stats and not self.quiet and totals != Totals():
                put(sys.stderr, totals.summary(time.monotonic() - began))
        if totals.failed:
            count = totals.failed + totals.answered
            where = "their results say why" if self.results.as_json else "the lines above say why"
            raise SomeFailed(f"{totals.failed} of {count} records got no answer", hint=where)

    def _without_result(self, records: Iterator[Record], totals: Totals) -> Iterator[Record]:
        """The records without a result."""
        for digest in self.results.done:
            record = next(records, None)
            hint = "resume with the same records, or name another file"
            if record is None:
                raise BadFile(f"there are {len(self.results.done)} results, but {totals.skipped} records", hint=hint)
            totals.skipped += 1
            if record.digest != digest:
                raise BadFile(f"result {totals.skipped} is not that of record {totals.skipped}", hint=hint)
        self.results.begin()
        return records

    def _open(self) -> None:
        for event in self.session.open():
            self._show(event)
        self._progress.close()
        if self.batch > 1:
            shared = self.session.share_rounds(self.batch)
            if shared < self.batch:
                one = "one record after the other" if shared == 1 else f"{shared} records at once"
                self._show(Notice(f"this model answers {one}"))
            self.batch = shared

    def _work(self, records: Iterator[Record], totals: Totals) -> None:
        pending: deque[_Pending] = deque()
        began, number = time.monotonic(), totals.skipped
        while True:
            running = sum(each.result is None for each in pending)
            while running < self.batch and len(pending) < _AHEAD * self.batch and (record := next(records, None)):
                number += 1
                running += 1
                pending.append(_Pending(number, record, self._answer(record)))
            if not pending:
                return
            with self._terminal.drawing():
                speed = totals.generated_tokens / max(1e-9, time.monotonic() - began)
                self._bar.show(totals.skipped + totals.answered + totals.failed, speed)
            for each in pending:
                if each.result is None:
                    each.advance()
            while ready := [each for each in pending if each.result is not None]:
                if not self.unordered and ready[0] is not pending[0]:
                    break
                pending.remove(ready[0])
                self._write(ready[0], totals)

    def _write(self, done: _Pending, totals: Totals) -> None:
        result = done.result
        assert result is not None, "the answer has ended"  # noqa: S101
        with self._terminal.drawing():
            if self.results.shares_terminal:
                self._bar.close()
            self.results.write(done.record.digest, result)
            totals.add(result)
            if result.error is not None and not self.results.as_json:
                self._bar.close()
                self._say(f"record {done.number}: {result.error}")

    def _answer(self, record: Record) -> Generator[None, None, Result]:
        """The answer to one record, or the fault of the record, as a result. Yields after every event.

        Raises SpecgenError for any other fault: the next record would meet it too, and --resume can answer this one.
        """
        last: Event | None = None
        started: Started | None = None
        try:
            if record.error is not None:
                raise record.error
            prompt = self.prompt(record)
        except BadFile as error:
            return Result(record.fields, error=error)
        try:
            for event in self.session.generate(prompt, **self.generation):
                if isinstance(event, Started):
                    started = event
                elif isinstance(event, Notice | Progress):
                    self._show(event)
                last = event
                yield
            if isinstance(last, Failed):
                raise last.error
        except _RECORD_FAULTS as error:
            return Result(record.fields, error=error)
        assert isinstance(last, Finished), "every stream ends in Finished or Failed"  # noqa: S101
        assert started is not None, "and begins with Started"  # noqa: S101
        self.recorder.write(started, last.text, last.reason, last.stats)
        seed = None if started.sampling.greedy else started.sampling.seed
        try:
            check_complete(last)
        except Incomplete as error:
            return Result(record.fields, last, error, seed)
        return Result(record.fields, last, seed=seed)

    def _show(self, event: Event) -> None:
        """Show progress, and each notice once."""
        if self.quiet or (isinstance(event, Notice) and event.text in self._told):
            return
        if isinstance(event, Notice):
            self._told.add(event.text)
            self._bar.close()
        self._progress.show(event)

    def _clean(self) -> None:
        self._progress.close()
        self._bar.close()

    def _say(self, text: str) -> None:
        print(f"specgen: {sanitize(text)}", file=sys.stderr, flush=True)  # noqa: T201


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the work like Ctrl-C: finished results are written, and the terminal is restored."""

    def end(*_: object) -> None:
        sys.exit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
