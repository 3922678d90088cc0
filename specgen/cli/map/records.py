"""Records of `specgen map`: lines of text or JSON from files or stdin, read one at a time."""

import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from specgen.cli.inputs import LARGEST_INPUT, as_text, waiting_for_stdin
from specgen.core.errors import BadFile, UsageError
from specgen.core.files import parse_json
from specgen.core.words import format_bytes, reason
from specgen.render.terminal import is_terminal

INPUT = "input"
_CHUNK = 1 << 20  # bytes
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the input. `fields` are those of the JSON object, or the line as `input`.

    `error` is set if the line is not a record. `digest` identifies the line.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    error: BadFile | None = None
    digest: str = ""


class Records:
    """The records of `files`, or of stdin without files. Blank lines are skipped.

    The first record decides whether all are JSON, unless `lines` is set. The constructor reads it; raises BadFile if it
    is binary, UsageError without any input. `total` is the number of records, None for a pipe.
    """

    def __init__(self, files: Sequence[Path], *, lines: bool, quiet: bool = False) -> None:
        self._sources = [_open(path) for path in files] if files else [("stdin", _stdin())]
        self.total = _count(self._sources)
        self._lines = self._read()
        with waiting_for_stdin(quiet=quiet or not any(name == "stdin" for name, _ in self._sources)):
            first = next(self._lines, None)
        self.is_empty = first is None
        if first is not None:
            if b"\0" in first[1]:  # a binary file, or UTF-16
                as_text(first[1], first[0])
            self._lines = chain([first], self._lines)
        self.is_json = not lines and first is not None and first[1].lstrip(b"\xef\xbb\xbf \t").startswith(b"{")

    def __iter__(self) -> Iterator[Record]:
        for name, line in self._lines:
            digest = hashlib.sha256(line).hexdigest()[:16]
            try:
                text = as_text(line, name)
                fields = _object(text, name) if self.is_json else {INPUT: text}
            except BadFile as error:
                yield Record(error=error, digest=digest)
            else:
                yield Record(fields, digest=digest)

    def _read(self) -> Iterator[tuple[str, bytes]]:
        """The place and the content of every line that is not blank, without its line end. Raises BadFile."""
        for name, stream in self._sources:
            with stream:
                number = 0
                while line := stream.readline(LARGEST_INPUT + 1):
                    number += 1
                    if len(line) > LARGEST_INPUT:
                        raise BadFile(
                            f"line {number} of {name} is longer than {format_bytes(LARGEST_INPUT)}",
                            hint="give text with one record on each line",
                        )
                    if line.strip():
                        yield f"line {number} of {name}", line.removesuffix(b"\n").removesuffix(b"\r")


def prompt_of(record: Record, template: str, name: str) -> str:
    """The prompt for a record. Raises BadFile for a missing field.

    A `template` with {fields} is filled in. Otherwise it follows the text of the field `name` and a blank line.
    """
    if _FIELD.search(template):
        return _FIELD.sub(lambda match: _text(record, match[1]), template)
    text = _text(record, name)
    return f"{text}\n\n{template}" if template else text


def check_template(template: str) -> None:
    """Raises UsageError for a `template` with fields that a line of text does not have."""
    for name in _FIELD.findall(template):
        if name != INPUT:
            raise UsageError(
                f"plain lines have no field '{name}'", hint=f"write {{{INPUT}}} for the line, or pipe in JSON lines"
            )


def _text(record: Record, name: str) -> str:
    if name not in record.fields:
        known = ", ".join(record.fields) or "none"
        raise BadFile(f"the record has no field '{name}'", hint=f"it has: {known}")
    value = record.fields[name]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _object(text: str, name: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except ValueError as error:
        raise BadFile(f"{name} is not JSON: {error}", hint="write one JSON object on each line") from error
    if not isinstance(value, dict):
        raise BadFile(f"{name} is not a JSON object", hint="write one JSON object on each line")
    return value


def _open(path: Path) -> tuple[str, BinaryIO]:
    if path == Path("-"):
        return "stdin", _stdin()
    try:
        return str(path), path.expanduser().open("rb")
    except (OSError, RuntimeError) as error:  # RuntimeError: the user after ~ does not exist
        raise BadFile(f"cannot read {path}: {reason(error)}", hint="check the path and its permissions") from error


def _stdin() -> BinaryIO:
    if sys.stdin is None or sys.stdin.closed or is_terminal(sys.stdin):
        raise UsageError("there are no records", hint="pipe lines in, or name a file: specgen map -f FILE")
    return sys.stdin.buffer


def _count(sources: Sequence[tuple[str, BinaryIO]]) -> int | None:
    """The number of lines that are not blank; None if a source can be read only once."""
    total = 0
    for _, stream in sources:
        try:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return None
        except OSError:  # not a file of the operating system
            return None
        start = stream.tell()
        blank = True
        while part := stream.readline(_CHUNK):
            blank = blank and not part.strip()
            if part.endswith(b"\n"):
                total += not blank
                blank = True
        total += not blank
        stream.seek(start)
    return total
