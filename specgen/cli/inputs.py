"""What the user gives: files, stdin and prompt joined, and a constraint."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from specgen.cli.options import ConstraintOptions
from specgen.cli.ui import warn
from specgen.core.errors import BadFile, UsageError
from specgen.core.files import resolved
from specgen.core.types import Constraint
from specgen.core.words import format_bytes, reason
from specgen.render.terminal import is_terminal

_STDIN = Path("-")
_PATIENCE_S = 1.0
# Bytes; far more text than any context holds.
LARGEST_INPUT = 64_000_000


def gather(words: Sequence[str], files: Sequence[Path], *, quiet: bool = False) -> str | None:
    """Files, then piped stdin, then the prompt, separated by blank lines. None without any text. Raises BadFile.

    The last line end of a file or of stdin is not part of the prompt, as in $(...) of a shell.
    """
    parts = [read_text(path, quiet=quiet) for path in files]
    if _STDIN not in files and not is_terminal(sys.stdin) and (piped := _stdin(quiet=quiet)):
        parts.append(piped)
    parts = [part.removesuffix("\r\n").removesuffix("\n") for part in parts]
    if words:
        parts.append(" ".join(words))
    parts = [part for part in parts if part.strip()]
    return "\n\n".join([*(part.rstrip("\r\n") for part in parts[:-1]), parts[-1]]) if parts else None


def read_text(path: Path, *, quiet: bool = False) -> str:
    """The text of a file, or of stdin for `-`. Raises BadFile."""
    if path == _STDIN:
        return _stdin(quiet=quiet)
    try:
        with resolved(path).open("rb") as file:
            return as_text(_read_all(file, str(path)), str(path))
    except OSError as error:
        raise BadFile(f"cannot read {path}: {reason(error)}", hint="check the path and its permissions") from error


def _stdin(*, quiet: bool) -> str:
    if sys.stdin is None or sys.stdin.closed:
        return ""
    with waiting_for_stdin(quiet=quiet):
        data = _read_all(sys.stdin.buffer, "stdin")
    return as_text(data, "stdin")


@contextlib.contextmanager
def waiting_for_stdin(*, quiet: bool = False) -> Iterator[None]:
    """Print a note if the body waits for stdin for more than a second: nothing may ever come."""
    note = "waiting for stdin; add < /dev/null if there is nothing to read"
    timer = threading.Timer(_PATIENCE_S, lambda: warn(note))
    timer.daemon = True
    if not quiet:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _read_all(stream: BinaryIO, name: str) -> bytes:
    """The whole content. Raises BadFile above LARGEST_INPUT bytes, so an endless device cannot fill the memory."""
    data = stream.read(LARGEST_INPUT + 1)
    if len(data) > LARGEST_INPUT:
        raise BadFile(f"{name} is larger than {format_bytes(LARGEST_INPUT)}", hint="shorten it")
    return data


def as_text(data: bytes, name: str) -> str:
    """`data` as UTF-8, whatever the locale. Raises BadFile, which names `name`."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadFile(
            f"{name} is not UTF-8 text (byte {error.start})", hint="convert it, for example with iconv -t utf-8"
        ) from error
    if "\0" in text:
        raise BadFile(f"{name} is binary, not text (byte {data.index(0)} is zero)", hint="give it as UTF-8 text")
    return text


def read_constraint(options: ConstraintOptions) -> Constraint | None:
    """The constraint of --json-schema, --regex or --grammar. Raises UsageError for a wrong one, BadFile."""
    given: list[Constraint] = []
    if (schema := options.json_schema) is not None:
        given.append(Constraint("json-schema", _text_or_file(schema, schema.lstrip()[:1] in ("{", "["))))
    if options.regex is not None:
        given.append(Constraint("regex", options.regex))
    if options.grammar is not None:
        given.append(Constraint("grammar", _text_or_file(options.grammar, ":" in options.grammar)))
    if not given:
        return None
    if len(given) > 1:
        raise UsageError("an answer has one constraint", hint="give one of --json-schema, --regex and --grammar")
    from specgen.engine.sampling.grammar import compile_grammar  # noqa: PLC0415 - slow, and few prompts need it

    compile_grammar(given[0])
    return given[0]


def _text_or_file(given: str, is_text: bool) -> str:
    """`given` itself if it can only be the text, otherwise the content of that file."""
    return given if is_text and not os.path.lexists(given) else read_text(Path(given))
