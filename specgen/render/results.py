"""Results of `specgen map`, one line per record, and their totals."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from specgen.core.errors import SpecgenError
from specgen.core.events import Finished, Stats, stats_fields
from specgen.render.jsonl import error_fields, json_line

# Fields that a result adds to those of its record. Fields of the record with these names go into `record`.
ADDED = ("output", "partial", "seed", "stats", "error", "record")


@dataclass(frozen=True, slots=True)
class Result:
    """The `fields` of a record with its answer, or with its `error`. `seed` is None without sampling."""

    fields: Mapping[str, Any]
    finished: Finished | None = None
    error: SpecgenError | None = None
    seed: int | None = None

    def as_json(self) -> bytes:
        """The fields of the record with `output` and `stats`, or with `error`, and `partial` for a cut answer."""
        added: dict[str, object] = {name: value for name, value in self.fields.items() if name not in ADDED}
        if hidden := {name: value for name, value in self.fields.items() if name in ADDED}:
            added["record"] = hidden
        if self.finished is not None:
            added["partial" if self.error else "output"] = self.finished.text
            if self.seed is not None:
                added["seed"] = self.seed
            added["stats"] = stats_fields(self.finished.stats)
        if self.error is not None:
            added["error"] = error_fields(self.error)
        return json_line(added)

    def as_text(self) -> bytes:
        """The answer on one line, so that line N answers record N. Line breaks become spaces; an error is empty."""
        text = self.finished.text if self.finished and not self.error else ""
        lines = [line.strip() for line in text.replace("\r", "\n").split("\n")]
        return " ".join(line for line in lines if line).encode("utf-8", "replace") + b"\n"


@dataclass
class Totals:
    """Totals of the records so far. `skipped` records had results already."""

    skipped: int = 0
    answered: int = 0
    failed: int = 0
    stats: list[Stats] = field(default_factory=list)

    def add(self, result: Result) -> None:
        if result.error is None:
            self.answered += 1
        else:
            self.failed += 1
        if result.finished is not None:
            self.stats.append(result.finished.stats)

    @property
    def generated_tokens(self) -> int:
        return sum(each.generated_tokens for each in self.stats)

    def summary(self, seconds: float) -> str:
        """The final summary, `seconds` after the first record was read."""
        counts = {"answered": self.answered, "failed": self.failed, "skipped": self.skipped}
        named = [f"{count} {name}" for name, count in counts.items() if count or name == "answered"]
        parts = [f"{', '.join(named)} in {seconds:.1f} s"]
        tokens, rounds = (sum(getattr(each, name) for each in self.stats) for name in ("generated_tokens", "rounds"))
        if tokens:
            parts.append(f"{tokens} tokens, {tokens / seconds:.1f} tok/s" if seconds else f"{tokens} tokens")
        drafted, accepted = (
            sum(getattr(each, name) for each in self.stats) for name in ("drafted_tokens", "accepted_tokens")
        )
        if drafted:
            rate = f"acceptance rate {100 * accepted / drafted:.0f} %"
            parts[-1] += f"\n{rate} · mean acceptance length {tokens / rounds:.1f}"
        return " · ".join(parts) + "\n"
