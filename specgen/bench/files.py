"""Report files in several formats, and named baselines in the user's data folder."""

import csv
import io
import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from specgen.bench.html import EMBEDDED, EMBEDDED_END, html_page
from specgen.bench.report import FORMAT
from specgen.bench.settings import BenchSettings, Format, pin_revisions, settings_from_dict
from specgen.bench.tables import as_markdown, as_text
from specgen.core.errors import BadFile, UsageError
from specgen.core.files import data_folder, replace_file
from specgen.core.words import reason

Figures = Mapping[str, Any]

# The keys needed to run a benchmark again.
_HEADER = ("format", "machine", "target", "draft", "number_formats", "suite", "settings")
_BASELINE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def choose_format(asked: Format | None, output: Path | None) -> Format:
    """Return `asked`, or the format that the file ending names, or a table. Raises UsageError.

    A missing matplotlib is an error here, so that it does not surface after minutes of measuring.
    """
    form = _format(asked, output)
    if form is Format.HTML and find_spec("matplotlib") is None:
        raise UsageError(
            "an HTML report needs matplotlib", hint="pip install 'specgen[plots]', or choose another format"
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
        raise UsageError(f"{output.name} has an unknown ending", hint=f"add --format, or use one of {known}")
    return Format(ending)


def render_report(report: Figures, form: Format) -> str:
    """Render `report` in the format `form`."""
    header = {name: report[name] for name in _HEADER} | {"interrupted": report.get("interrupted")}
    match form:
        case Format.TABLE:
            return as_text(report)
        case Format.JSON:
            return json.dumps(report, indent=2) + "\n"
        case Format.JSONL:
            return _lines(report)
        case Format.CSV:
            return _csv(report, header)
        case Format.MD:
            return as_markdown(report, header)
        case Format.HTML:
            return html_page(report)


def read_report(path: Path) -> dict[str, Any]:
    """Read a report. Of CSV and Markdown only the header is read. Raises BadFile."""
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise BadFile(f"cannot read {path}: {why}", hint="give a report of specgen bench") from error
    try:
        report = _parsed(text)
        known = report["format"] == FORMAT
    except (ValueError, KeyError, TypeError, IndexError, StopIteration, csv.Error) as error:
        raise BadFile(f"{path} is not a report of specgen bench", hint="write one with --output FILE") from error
    if not known:
        raise BadFile(f"{path} is a report of another version of specgen", hint="measure again")
    return report


def settings_of(report: Figures, path: Path) -> BenchSettings:
    """Settings of `report`, with models pinned to the measured revisions. Raises BadFile."""
    try:
        return pin_revisions(settings_from_dict(report["settings"]), report)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFile(f"{path} has no valid settings", hint="measure again") from error


def baseline_folder() -> Path:
    """Folder of the baselines. It may not exist yet."""
    return data_folder() / "baselines"


def check_baseline_name(name: str) -> None:
    """Raises UsageError if `name` cannot be a file name."""
    if not _BASELINE_NAME.fullmatch(name):
        raise UsageError(f"'{name}' is not a valid baseline name", hint="use letters, digits, dots and dashes")


def save_baseline(name: str, report: Figures) -> Path:
    """Save `report` and replace an older baseline of that name. Raises BadFile."""
    path = baseline_folder() / f"{name}.json"
    try:
        replace_file(path, json.dumps(report))
    except OSError as error:
        raise BadFile(f"cannot write {path}: {reason(error)}", hint="write a file with --output instead") from error
    return path


def load_baseline(name: str) -> dict[str, Any]:
    """Load the baseline `name`, or the report file of that path. Raises UsageError, BadFile."""
    path = baseline_folder() / f"{name}.json"
    if _BASELINE_NAME.fullmatch(name) and path.is_file():
        return read_report(path)
    if Path(name).expanduser().is_file():
        return read_report(Path(name))
    known = ", ".join(sorted(path.stem for path in baseline_folder().glob("*.json")))
    hint = f"there is: {known}" if known else "save one with --save-baseline NAME"
    raise UsageError(f"there is no baseline or file '{name}'", hint=hint)


def _lines(report: Figures) -> str:
    """Write the report without its runs in the first line, then one run per line."""
    rest = {name: value for name, value in report.items() if name != "runs"}
    return "".join(json.dumps(each) + "\n" for each in (rest, *report["runs"]))


def _csv(report: Figures, header: Figures) -> str:
    """Write one row per contender, overall and by category. Every row carries the header."""
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
    """Flatten figures into cells: join nested keys by a dot and list values by spaces."""
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
