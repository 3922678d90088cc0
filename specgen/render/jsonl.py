"""Events for programs: one JSON object per line."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TextIO

from specgen.core.errors import SpecgenError
from specgen.core.events import (
    Event,
    Failed,
    Finished,
    LoadedModel,
    Notice,
    Progress,
    Renderer,
    Started,
    Step,
    stats_fields,
)
from specgen.render.terminal import BIDI_CONTROLS

SCHEMA = 1

# JSON allows these characters, but some readers split lines at them, and terminals obey others. They occur only in
# strings, where an escape is equivalent.
_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029, *BIDI_CONTROLS)}


class JsonLines:
    """Writes every event except Progress as one line of JSON in UTF-8, with `type` and `schema`.

    `progress` shows Progress elsewhere. Without `steps`, only `finished` has the text. `about` adds fields to
    `started`.
    """

    def __init__(
        self,
        stdout: TextIO,
        *,
        progress: Renderer | None = None,
        steps: bool = True,
        about: Mapping[str, object] | None = None,
    ) -> None:
        self._stdout = stdout
        self._progress = progress
        self._steps = steps
        self._about = about or {}
        self._started: Started | None = None

    def show(self, event: Event) -> None:
        if isinstance(event, Progress):
            if self._progress:
                self._progress.show(event)
            return
        self.close()
        match event:
            case Notice(text):
                self._write("notice", {"text": text})
            case Started():
                self._started = event
                now = datetime.now(UTC).isoformat(timespec="milliseconds")
                self._write("started", {"time": now, **self._about, **asdict(event)})
            case Step() if self._steps:
                self._write("step", _step(event))
            case Finished():
                self._write("finished", _finished(event, self._started))
                self._started = None
            case Failed():
                self._write("failed", error_fields(event.error))
                self._started = None

    def close(self) -> None:
        if self._progress:
            self._progress.close()

    def _write(self, kind: str, fields: dict[str, object]) -> None:
        self._stdout.buffer.write(json_line({"type": kind, "schema": SCHEMA, **fields}))
        self._stdout.buffer.flush()


def json_line(fields: dict[str, object]) -> bytes:
    """`fields` as one line of JSON in UTF-8, with its newline."""
    line = json.dumps(fields, ensure_ascii=False)
    # A lone surrogate has no UTF-8. backslashreplace writes the same escape as JSON.
    return line.translate(_ESCAPES).encode("utf-8", "backslashreplace") + b"\n"


def _step(step: Step) -> dict[str, object]:
    return {
        "tokens": step.tokens,
        "text": step.text,
        "spans": [asdict(span) for span in step.spans],
        "drafted": step.drafted,
        "accepted": step.accepted,
        "drafted_sources": step.drafted_sources,
        "draft_s": step.draft_s,
        "verify_s": step.verify_s,
    }


def _finished(finished: Finished, started: Started | None) -> dict[str, object]:
    models = {"target": _model(started.target), "draft": _model(started.draft)} if started else {}
    return {
        "reason": finished.reason,
        "text": finished.text,
        "complete": finished.complete,
        "models": models,
        "stats": stats_fields(finished.stats),
    }


def _model(model: LoadedModel | None) -> dict[str, object] | None:
    return asdict(model) if model else None


def error_fields(error: SpecgenError) -> dict[str, object]:
    return {
        "error": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "exit_code": error.exit_code,
    }
