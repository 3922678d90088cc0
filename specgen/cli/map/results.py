"""Destination of the results of `specgen map`: stdout, or the file of --resume with its journal."""

import hashlib
import json
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from specgen.core.errors import BadFile
from specgen.core.files import parse_json, read_text, replace_file, resolved
from specgen.core.words import reason
from specgen.render.results import Result
from specgen.render.terminal import is_terminal, put, sanitize

JOURNAL_SUFFIX = ".specgen-map"
_FORMAT = 1


class Results:
    """Writes each result as one line, flushed at once.

    With `resume` they go to that file, which is created if missing. A journal beside it holds the `options` of the map
    and a digest of every record and result. So only results of the same map are continued. The constructor reads both
    and locks the file; it raises BadFile, and changes nothing, if the file holds anything else.

    `done` are the digests of the records that have a result.
    """

    def __init__(self, resume: Path | None, *, as_json: bool, options: Mapping[str, object] | None = None) -> None:
        self.as_json = as_json
        self.done: list[str] = []
        self._name = resume
        self._options = dict(options or {})
        self._entries: list[str] = []
        self._whole = 0
        self._file: BinaryIO | None = None
        self._journal: TextIO | None = None
        if resume is None:
            return
        try:
            self._path = resolved(resume)
            self._journal_path = self._path.with_name(self._path.name + JOURNAL_SUFFIX)
            exists = self._path.exists()
            # Checked before opening: a device may be endless, and opening a FIFO blocks.
            if exists and not self._path.is_dir() and not stat.S_ISREG(self._path.stat().st_mode):
                raise BadFile(f"cannot write to {resume}: it is not a regular file", hint="name another file")
            self._file = self._path.open("r+b" if exists else "x+b")
            self._lock(self._file)
            self._read(self._file)
        except OSError as error:
            self.close()
            raise BadFile(
                f"cannot write to {resume}: {reason(error)}", hint="check the path and its permissions"
            ) from error
        except BadFile:
            self.close()
            raise

    def begin(self) -> None:
        """Prepare to append: drop a line that was cut, and journal entries without a result. Raises OSError."""
        if self._file is None:
            return
        header = json.dumps({"format": _FORMAT, "options": self._options})
        replace_file(self._journal_path, "".join(f"{line}\n" for line in (header, *self._entries[: len(self.done)])))
        self._journal = self._journal_path.open("a", encoding="utf-8")
        self._file.seek(self._whole)
        self._file.truncate()

    def write(self, record: str, result: Result) -> None:
        """Write the result of the record with the digest `record`. Raises BrokenPipeError if the reader is gone."""
        line = result.as_json() if self.as_json else result.as_text()
        if self._file is not None and self._journal is not None:
            # The journal first: an entry without a result is dropped later, a result without an entry is refused.
            self._journal.write(f"{record} {_digest(line)}\n")
            self._journal.flush()
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
        return self._file is None and is_terminal(sys.stdout)

    def close(self) -> None:
        for file in (self._file, self._journal):
            if file is not None:
                file.close()

    def _lock(self, file: BinaryIO) -> None:
        """Raises BadFile if another process holds the lock, which ends with `file`. Windows has no such lock."""
        if sys.platform == "win32":
            return
        import fcntl  # noqa: PLC0415 - not on Windows

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadFile(f"another map writes to {self._name}", hint="wait, or name another file") from error
        except OSError:
            return  # this file system has no locks

    def _read(self, file: BinaryIO) -> None:
        """Compare the file with its journal, line by line. Raises BadFile."""
        if self._path.stat().st_size == 0 and not self._journal_path.exists():
            return
        options, self._entries = self._read_journal()
        if self._path.stat().st_size == 0:
            return
        for key in self._options:
            old, new = options.get(key), self._options[key]
            if old != new:
                raise BadFile(
                    f"{self._name} has results of another map: its {key} was {_short(old)}, now {_short(new)}",
                    hint="use the same options, or name another file",
                )
        for number, line in enumerate(file):
            known = self._entries[number] if number < len(self._entries) else ""
            record, _, result = known.partition(" ")
            if not known or (line.endswith(b"\n") and _digest(line) != result):
                raise BadFile(
                    f"line {number + 1} of {self._name} is not a result of this map", hint="name another file"
                )
            if line.endswith(b"\n"):
                self.done.append(record)
                self._whole += len(line)

    def _read_journal(self) -> tuple[dict[str, Any], list[str]]:
        """The options of the map, and its entries. Raises BadFile."""
        try:
            header, *entries = read_text(self._journal_path).splitlines()
            fields = parse_json(header)
            if fields["format"] != _FORMAT:
                raise ValueError
            return dict(fields["options"]), entries
        except FileNotFoundError as error:
            raise BadFile(
                f"{self._name} is not a file of specgen map: {self._journal_path.name} is not beside it",
                hint="name another file",
            ) from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BadFile(f"{self._journal_path} is not the journal of a map", hint="name another file") from error


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:16]


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:39]}…"
