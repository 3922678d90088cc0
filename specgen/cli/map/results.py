"""Destination of the results of `specgen map`: stdout, or the file of --resume."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from specgen.core.errors import BadFile
from specgen.render.results import ADDED, Result
from specgen.render.terminal import is_terminal, put, sanitize


class Results:
    """Writes each result as one line, flushed at once. `done` results existed before.

    With `resume` they go to that file, which is created if missing. The constructor raises BadFile. begin() drops a cut
    last line, after it has checked that the file belongs to these records.
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
            except (OSError, RuntimeError) as error:  # RuntimeError: the user after ~ does not exist
                reason = getattr(error, "strerror", None) or error
                raise BadFile(
                    f"cannot write to {resume}: {reason}", hint="check the path and its permissions"
                ) from error

    def begin(self, last: Mapping[str, Any] | None) -> None:
        """Prepare to append. `last` holds the fields of the last record that has a result.

        Raises BadFile, and changes nothing, if the last result does not belong to that record.
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
        """Write one result. Raises BrokenPipeError if the reader is gone."""
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
        """Whether results appear on the terminal with the progress bar."""
        stream: TextIO = sys.stdout
        return self._file is None and is_terminal(stream)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
