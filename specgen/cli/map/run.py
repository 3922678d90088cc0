"""The loop of `specgen map`: it answers records one after the other and writes results."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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


@dataclass
class Mapper:
    """Answers records one after the other with `session`. `prompt` makes the prompt of a record and raises BadFile.

    `generation` are the other arguments of BackgroundSession.generate. With `quiet` stderr gets only errors.
    """

    session: BackgroundSession
    prompt: Callable[[Record], str]
    generation: dict[str, Any]
    results: Results
    recorder: Recorder
    quiet: bool
    stats: bool
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
                    self._work(first, rest, totals)
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

    def _work(self, first: Record, rest: Iterator[Record], totals: Totals) -> None:
        record: Record | None = first
        while record is not None:
            with self._terminal.drawing():
                self._bar.show(totals.skipped + totals.answered + totals.failed, totals.tokens_per_second)
            result = self._answer(record)
            with self._terminal.drawing():
                if self.results.shares_terminal:
                    self._bar.close()
                self.results.write(record.digest, result)
                totals.add(result)
                if result.error is not None and not self.results.as_json:
                    self._bar.close()
                    self._say(f"record {totals.skipped + totals.answered + totals.failed}: {result.error}")
            record = next(rest, None)

    def _answer(self, record: Record) -> Result:
        """The answer to one record, or the fault of the record, as a result.

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
