"""Where the results of `specgen map` go: stdout, or a file that may hold the first of them already."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from specgen.core.errors import BadFile
from specgen.render.results import ADDED, Result
from specgen.render.terminal import is_terminal, put, sanitize


class Results:
    """One line a result, whole and at once. `done` results were there before.

    With `resume` they go to that file, which is made where there is none. The constructor raises BadFile. A last line
    that was cut is dropped by begin(), when it is known that the file belongs to these records.
    """

    def __init__(self, resume: Path | None, *, as_json: bool) -> None:
        self.as_json = as_json
        self._path = resume
        self._file: BinaryIO | None = None
        self._last = b""
        self._whole = 0
        self.done = 0
        if resume is not None:
            try:
                self._file = resume.expanduser().open("r+b" if resume.expanduser().exists() else "x+b")
                for line in self._file:
                    if line.endswith(b"\n"):
                        self.done, self._last, self._whole = self.done + 1, line, self._whole + len(line)
            except (OSError, RuntimeError) as error:  # RuntimeError: ~ of a user there is not
                reason = getattr(error, "strerror", None) or error
                raise BadFile(
                    f"cannot write to {resume}: {reason}", hint="check the path and its permissions"
                ) from error

    def begin(self, last: Mapping[str, Any] | None) -> None:
        """Be ready to write after the results that are there. `last` are the fields of the last record that has one.

        Raises BadFile, and changes nothing, where the last result is not that record's.
        """
        if self._file is None:
            return
        if self.as_json and self.done and not self._belongs(last or {}):
            raise BadFile(
                f"result {self.done} in {self._path} is not that of record {self.done}",
                hint="resume with the same records and --json, or name another file",
            )
        self._file.seek(self._whole)
        self._file.truncate()

    def _belongs(self, fields: Mapping[str, Any]) -> bool:
        try:
            result = json.loads(self._last)
        except ValueError:
            return False
        if not isinstance(result, dict):
            return False
        own, given = ({k: v for k, v in each.items() if k not in ADDED} for each in (result, fields))
        return own == given and result.keys() & {"output", "error"} != set()

    def write(self, result: Result) -> None:
        """Raises BrokenPipeError when the reader is gone."""
        line = result.as_json() if self.as_json else result.as_text()
        if self._file is not None:
            self._file.write(line)
            self._file.flush()
        elif is_terminal(sys.stdout):
            put(sys.stdout, sanitize(line.decode("utf-8")))
        else:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()

    @property
    def shares_terminal(self) -> bool:
        """Whether results appear where the bar is drawn."""
        stream: TextIO = sys.stdout
        return self._file is None and is_terminal(stream)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
