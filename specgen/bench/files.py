"""Reports as files: written in the format that is asked for, and read back to run or compare them again."""

import csv
import io
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from specgen.bench.html import EMBEDDED, EMBEDDED_END, page
from specgen.bench.report import FORMAT
from specgen.bench.settings import BenchSettings, Format, as_settings, pinned
from specgen.bench.table import markdown, render
from specgen.core.errors import BadFile, UsageError

Figures = Mapping[str, Any]

# What it takes to run a benchmark again.
_HEADER = ("format", "machine", "target", "draft", "number_formats", "suite", "settings")


def choose_format(asked: Format | None, output: Path | None) -> Format:
    """What is asked for, else what the ending of the file says, else a table. Raises UsageError.

    Also where what draws it is not installed: who measured for minutes should not learn that afterwards.
    """
    form = _format(asked, output)
    if form is Format.HTML and find_spec("matplotlib") is None:
        raise UsageError(
            "the plots of a page need matplotlib", hint="pip install 'specgen[plots]', or choose another format"
        )
    return form


def _format(asked: Format | None, output: Path | None) -> Format:
    if asked is not None or output is None:
        return asked or Format.TABLE
    ending = output.suffix.removeprefix(".").lower()
    if ending in ("txt", ""):
        return Format.TABLE
    if ending not in [each.value for each in Format]:
        known = ", ".join(f".{each}" for each in Format if each is not Format.TABLE)
        raise UsageError(f"{output.name} does not say its format", hint=f"add --format, or end it in one of {known}")
    return Format(ending)


def written(report: Figures, form: Format) -> str:
    """`report` in a format."""
    header = {name: report[name] for name in _HEADER} | {"interrupted": report.get("interrupted")}
    match form:
        case Format.TABLE:
            return render(report)
        case Format.JSON:
            return json.dumps(report, indent=2) + "\n"
        case Format.JSONL:
            return _lines(report)
        case Format.CSV:
            return _csv(report, header)
        case Format.MD:
            return markdown(report, header)
        case Format.HTML:
            return page(report)


def read_report(path: Path) -> dict[str, Any]:
    """All of a report in JSON, JSON lines or HTML, the header alone of one in CSV or Markdown. Raises BadFile."""
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise BadFile(f"cannot read {path}: {reason}", hint="name a report of specgen bench") from error
    try:
        report = _parsed(text)
        known = report["format"] == FORMAT
    except (ValueError, KeyError, TypeError, IndexError, StopIteration, csv.Error) as error:
        raise BadFile(f"{path} is no report of specgen bench", hint="write one with --output FILE") from error
    if not known:
        raise BadFile(f"{path} is a report of another version of specgen", hint="measure again")
    return report


def settings_of(report: Figures, path: Path) -> BenchSettings:
    """What was measured, with the revisions that were measured. Raises BadFile."""
    try:
        return pinned(as_settings(report["settings"]), report)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFile(f"{path} does not say what was measured", hint="measure again") from error


def _lines(report: Figures) -> str:
    """The report without its runs in the first line, then a run a line."""
    rest = {name: value for name, value in report.items() if name != "runs"}
    return "".join(json.dumps(each) + "\n" for each in (rest, *report["runs"]))


def _csv(report: Figures, header: Figures) -> str:
    """A row for each contender, overall and by category. Every row has what it takes to run it again."""
    out = io.StringIO()
    tables = {"overall": report["overall"], **report["categories"]}
    rows = [
        {"category": category, "contender": name, **_flat(figures), "report": json.dumps(header)}
        for category, table in tables.items()
        for name, figures in table.items()
    ]
    names = dict.fromkeys(name for row in rows for name in row if name != "report")
    writer = csv.DictWriter(out, [*names, "report"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _flat(figures: Figures) -> dict[str, Any]:
    """Figures in cells: a table's keys joined by a dot, a list's values by spaces."""
    cells: dict[str, Any] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            cells |= {f"{name}.{key}": each for key, each in _flat(value).items()}
        elif isinstance(value, list | tuple):
            cells[name] = " ".join(map(str, value))
        else:
            cells[name] = value
    return cells


def _parsed(text: str) -> dict[str, Any]:
    if EMBEDDED in text:
        text = text.partition(EMBEDDED)[2].partition(EMBEDDED_END)[0]
    elif text.startswith("# specgen bench"):
        text = text.rpartition("```json\n")[2].partition("\n```")[0]
    elif text.startswith("category,"):
        csv.field_size_limit(1 << 24)
        text = next(csv.DictReader(io.StringIO(text)))["report"]
    try:
        report: dict[str, Any] = json.loads(text)
    except ValueError:
        first, *runs = [json.loads(line) for line in text.splitlines()]
        report = {**first, "runs": runs}
    return report
