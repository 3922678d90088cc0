"""Rows of the history as values, checked when they are read."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from specgen.core.errors import BadFile
from specgen.core.types import Message

Kind = Literal["run", "chat", "map"]

_TEXT, _COUNT, _NUMBER = (str,), (int,), (int, float)
_NULL = type(None)
# The fields that readers rely on, with their types. A dot leads into an object.
_SETTINGS: Mapping[str, tuple[type, ...]] = {
    "target": (dict,),
    "target.id": _TEXT,
    "target.revision": (str, _NULL),
    "draft": (dict, _NULL),
    "drafter": _TEXT,
    "device": _TEXT,
    "dtype": _TEXT,
    "quant": _TEXT,
    "num_draft_tokens": (int, _NULL),
    "sampling": (dict,),
    "sampling.temperature": _NUMBER,
}
_DRAFT: Mapping[str, tuple[type, ...]] = {"draft.id": _TEXT, "draft.revision": (str, _NULL)}
_STATS: Mapping[str, tuple[type, ...]] = {
    "generated_tokens": _COUNT,
    "rounds": _COUNT,
    "drafted_tokens": _COUNT,
    "accepted_tokens": _COUNT,
    "elapsed_s": _NUMBER,
    "tokens_per_second": _NUMBER,
    "acceptance_rate": _NUMBER,
    "mean_acceptance_length": _NUMBER,
    "speed_up": (int, float, _NULL),
    "speed_up_is_estimate": (bool,),
}


@dataclass(frozen=True, slots=True)
class LoggedAnswer:
    """An answer of the history. `prompt` is the message that it answers; History.messages has the earlier ones too.

    `settings` has the models, the sampling and the other fields of `Started`, `stats` those of `stats_fields`. `raw`:
    the prompt was continued without a chat template. `reason` is that of `Finished`, or failed.
    """

    id: int
    time: datetime
    kind: Kind
    template: str | None
    reason: str
    raw: bool
    prompt: str
    output: str
    settings: Mapping[str, Any]
    stats: Mapping[str, Any]

    @classmethod
    def read(cls, row: Mapping[str, Any], path: Path) -> "LoggedAnswer":
        """The answer in a row of the database at `path`. Raises BadFile that names a damaged row."""
        fields = dict(row)
        for name in ("kind", "reason", "prompt", "output"):
            _expect(isinstance(fields[name], str), fields["id"], name, path)
        _expect(isinstance(fields["template"], str | None), fields["id"], "template", path)
        try:
            fields["time"] = datetime.fromisoformat(fields["time"])
            _expect(fields["time"].tzinfo is not None, fields["id"], "time", path)
        except (TypeError, ValueError) as error:
            raise damaged(fields["id"], "time", path) from error
        for name, known in (("settings", _SETTINGS), ("stats", _STATS)):
            fields[name] = parse(fields[name], dict, fields["id"], name, path)
            for field, kinds in known.items():
                _expect(_has(fields[name], field, kinds), fields["id"], f"{name}.{field}", path)
        if fields["settings"]["draft"] is not None:
            for field, kinds in _DRAFT.items():
                _expect(_has(fields["settings"], field, kinds), fields["id"], f"settings.{field}", path)
        return cls(**fields | {"raw": bool(fields["raw"])})


@dataclass(frozen=True, slots=True)
class Turn:
    """A prompt and its answer. `id` is that of the answer in the history."""

    id: int
    prompt: str
    output: str

    @property
    def messages(self) -> tuple[Message, Message]:
        return Message("user", self.prompt), Message("assistant", self.output)


@dataclass(frozen=True, slots=True)
class Sample:
    """The figures of an answer. `draft` is the draft model, else the drafter. Times are in seconds, the rest tokens."""

    time: datetime
    template: str | None
    target: str
    draft: str
    drafted: int
    accepted: int
    generated: int
    rounds: int
    elapsed_s: float
    speed_up: float | None

    @classmethod
    def of(cls, answer: LoggedAnswer) -> "Sample":
        settings, stats = answer.settings, answer.stats
        return cls(
            time=answer.time,
            template=answer.template,
            target=settings["target"]["id"],
            draft=settings["draft"]["id"] if settings["draft"] else settings["drafter"],
            drafted=stats["drafted_tokens"],
            accepted=stats["accepted_tokens"],
            generated=stats["generated_tokens"],
            rounds=stats["rounds"],
            elapsed_s=stats["elapsed_s"],
            speed_up=stats["speed_up"],
        )


def parse(text: object, kind: type, id: int, column: str, path: Path) -> Any:  # noqa: A002
    """The JSON value of a column, of the type `kind`. Raises BadFile that names the row."""
    try:
        value = json.loads(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, RecursionError) as error:
        raise damaged(id, column, path) from error
    _expect(isinstance(value, kind), id, column, path)
    return value


def damaged(id: int, what: str, path: Path) -> BadFile:  # noqa: A002
    """The error for a row whose field `what` cannot be read."""
    return BadFile(f"answer {id} in {path} is damaged: see '{what}'", hint=f"delete it: specgen log delete {id}")


def _expect(condition: bool, id: int, what: str, path: Path) -> None:  # noqa: A002
    if not condition:
        raise damaged(id, what, path)


def _has(table: Any, field: str, kinds: tuple[type, ...]) -> bool:
    """Whether `field` of nested `table` has one of the types; numbers are finite."""
    for name in field.split("."):
        if not isinstance(table, dict) or name not in table:
            return False
        table = table[name]
    if isinstance(table, bool):
        return bool in kinds
    return isinstance(table, kinds) and not (isinstance(table, float) and not math.isfinite(table))
