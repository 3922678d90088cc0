"""From a benchmark to its report, where it is wanted, and to an exit code."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specgen.bench import baselines
from specgen.bench.benchmark import benchmark
from specgen.bench.files import written
from specgen.bench.regressions import Change, as_data, compare_reports
from specgen.bench.settings import BenchSettings, Format, RegressionKind
from specgen.core.errors import INTERRUPTED, BadFile, UsageError
from specgen.core.progress import follow
from specgen.render.progress import ProgressLine
from specgen.render.terminal import put, put_exact, sanitize

_WORSE = 1


@dataclass(frozen=True, slots=True)
class Outputs:
    """What to do with a report: `file` has `format`, and standard output then the table."""

    format: Format
    file: Path | None = None
    save: str | None = None
    compare: str | None = None
    fail_on: tuple[RegressionKind, ...] = ()


def play_bench(settings: BenchSettings, outputs: Outputs) -> int:
    """Measure, show, keep and compare. Returns the exit code. Raises SpecgenError, the soonest it can be told."""
    if outputs.save is not None:
        baselines.check_name(outputs.save)
    before = baselines.load(outputs.compare) if outputs.compare is not None else None
    if outputs.file is not None and not outputs.file.expanduser().absolute().parent.is_dir():
        raise BadFile(f"there is no folder {outputs.file.parent}", hint="make it first")
    line = ProgressLine(sys.stderr)
    try:
        report: dict[str, Any] = follow(benchmark(settings), line.show)
    finally:
        line.close()
    interrupted = report["interrupted"] is not None
    # Kept before anything can be found fault with: measuring took minutes.
    if outputs.save is not None and not interrupted:
        baselines.save(outputs.save, report)
    changes: list[Change] | None = None
    if before is not None:
        try:
            changes = compare_reports(before, report)
        except UsageError:
            _show(report, outputs)  # what took minutes is not lost with the comparison
            raise
        report["comparison"] = {"with": outputs.compare, "changes": as_data(changes)}
    _show(report, outputs)
    if changes is not None:
        as_text = outputs.format is Format.TABLE or outputs.file is not None
        put_exact(sys.stdout if as_text else sys.stderr, sanitize(_in_words(changes, str(outputs.compare))))
    if interrupted:
        unkept = f"; it is not kept as '{outputs.save}'" if outputs.save is not None else ""
        put(sys.stderr, f"specgen: interrupted: the report is of what was measured so far{unkept}\n")
        return INTERRUPTED
    return _WORSE if any(change.worse and change.kind in outputs.fail_on for change in changes or ()) else 0


def _show(report: dict[str, Any], outputs: Outputs) -> None:
    if outputs.file is None:
        made = written(report, outputs.format)
        put_exact(sys.stdout, sanitize(made) if outputs.format is Format.TABLE else made)
        return
    put_exact(sys.stdout, sanitize(written(report, Format.TABLE)))
    try:
        outputs.file.expanduser().write_text(written(report, outputs.format), encoding="utf-8")
    except OSError as error:
        raise BadFile(f"cannot write {outputs.file}: {error.strerror}", hint="name another with --output") from error


def _in_words(changes: list[Change], name: str) -> str:
    if not changes:
        return f"\nno change beyond noise since {name}\n"
    lines = [
        f"{'WORSE' if each.worse else 'changed':<7} {each.kind:<10} {each.contender}: {each.text}" for each in changes
    ]
    return f"\nsince {name}:\n" + "".join(f"{line}\n" for line in lines)
