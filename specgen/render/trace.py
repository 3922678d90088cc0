"""Trace of every round as JSON lines in a file, for --trace."""

import contextlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from specgen.core.errors import BadFile, SpecgenError
from specgen.core.events import Event, Failed, Finished, Notice, Renderer, Started, Step
from specgen.core.files import resolved
from specgen.core.words import reason

SCHEMA = 1


class Trace:
    """Appends every round to a file; None writes nothing.

    The constructor opens the file and raises BadFile. If writing fails later, the answer continues, and leaving the
    context raises BadFile.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._failure: OSError | None = None
        self._answer = self._round = 0
        self._began = 0.0
        if path is not None:
            try:
                self._file = resolved(path).open("ab")
            except OSError as error:
                raise BadFile(
                    f"cannot write a trace to {path}: {reason(error)}", hint="check the path and its permissions"
                ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()
        if self._failure is not None and not isinstance(error, SpecgenError | KeyboardInterrupt):
            raise BadFile(
                f"the trace in {self._path} is incomplete: {reason(self._failure)}",
                hint="the text is complete; free disk space, or trace to another file",
            ) from self._failure

    def along(self, renderer: Renderer) -> Renderer:
        """`renderer`, with a trace of every event."""
        return _TracingRenderer(renderer, self) if self._path is not None else renderer

    def write(self, event: Event) -> None:
        """Write one event, except Progress."""
        match event:
            case Started():
                self._answer, self._round, self._began = self._answer + 1, 0, time.perf_counter()
                self._line("started", asdict(event))
            case Step() if event.tokens:
                self._round += 1
                self._line("round", {"round": self._round, **_round(event), "elapsed_s": self._elapsed()})
            case Notice(text):
                self._line("notice", {"text": text})
            case Finished():
                self._line("finished", {"reason": event.reason, "rounds": event.stats.rounds})
            case Failed():
                self._line("failed", {"message": event.error.message})

    def _elapsed(self) -> float:
        return time.perf_counter() - self._began

    def _line(self, kind: str, fields: dict[str, object]) -> None:
        if self._file is None:
            return
        line = json.dumps({"type": kind, "schema": SCHEMA, "answer": self._answer, **fields})
        try:
            self._file.write(line.encode("ascii") + b"\n")
            self._file.flush()
        except OSError as error:
            self._failure = error
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):  # closing flushes, and fails again
                file.close()


class _TracingRenderer:
    def __init__(self, renderer: Renderer, trace: Trace) -> None:
        self._renderer = renderer
        self._trace = trace

    def show(self, event: Event) -> None:
        self._trace.write(event)
        self._renderer.show(event)

    def close(self) -> None:
        self._renderer.close()


def _round(step: Step) -> dict[str, object]:
    """`picked` is the target's own token; None if an end token or a stop string came first."""
    return {
        "proposed": [
            {"source": source, "token": token}
            for source, token in zip(step.drafted_sources, step.drafted_tokens, strict=True)
        ],
        "accepted": step.accepted,
        "picked": step.tokens[step.accepted] if len(step.tokens) > step.accepted else None,
        "tokens": step.tokens,
        "text": step.text,
        "draft_s": step.draft_s,
        "verify_s": step.verify_s,
    }
