"""Reports that are kept under a name, in the user's data folder."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specgen.bench.files import read_report
from specgen.core.errors import BadFile, UsageError
from specgen.core.files import data_folder, replace_file
from specgen.core.words import reason

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def folder() -> Path:
    """Where they are, whether or not it exists."""
    return data_folder() / "baselines"


def check_name(name: str) -> None:
    """Raises UsageError for what is no name of a file."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"'{name}' is no name for a baseline", hint="letters, digits, dots, dashes")


def save(name: str, report: Mapping[str, Any]) -> Path:
    """Keep `report`, in place of an older one of that name. Raises BadFile."""
    path = folder() / f"{name}.json"
    try:
        replace_file(path, json.dumps(report))
    except OSError as error:
        raise BadFile(f"cannot write {path}: {reason(error)}", hint="name a file with --output instead") from error
    return path


def load(name: str) -> dict[str, Any]:
    """The baseline of that name, or else the report in that file. Raises UsageError, BadFile."""
    path = folder() / f"{name}.json"
    if _NAME.fullmatch(name) and path.is_file():
        return read_report(path)
    if Path(name).expanduser().is_file():
        return read_report(Path(name))
    known = ", ".join(sorted(path.stem for path in folder().glob("*.json")))
    hint = f"there is: {known}" if known else "keep one with --save-baseline NAME"
    raise UsageError(f"there is no baseline or file '{name}'", hint=hint)
