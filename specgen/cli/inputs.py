"""What the user gives: files, stdin and prompt joined, and a constraint."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from specgen.cli.options import ConstraintOptions
from specgen.core.errors import BadFile, UsageError
from specgen.core.types import Constraint
from specgen.render.terminal import is_terminal

_STDIN = Path("-")


def gather(words: Sequence[str], files: Sequence[Path]) -> str | None:
    """Files, then piped stdin, then the prompt, separated by blank lines. None without any text. Raises BadFile."""
    parts = [read_text(path) for path in files]
    if _STDIN not in files and not is_terminal(sys.stdin) and (piped := _stdin()):
        parts.append(piped)
    if words:
        parts.append(" ".join(words))
    parts = [part for part in parts if part.strip()]
    return "\n\n".join([*(part.rstrip("\r\n") for part in parts[:-1]), parts[-1]]) if parts else None


def read_text(path: Path) -> str:
    """The text of a file, or of stdin for `-`. Raises BadFile."""
    if path == _STDIN:
        return _stdin()
    try:
        return as_text(path.expanduser().read_bytes(), str(path))
    except (OSError, RuntimeError) as error:  # RuntimeError: the user after ~ does not exist
        reason = getattr(error, "strerror", None) or error
        raise BadFile(f"cannot read {path}: {reason}", hint="check the path and its permissions") from error


def _stdin() -> str:
    return "" if sys.stdin is None or sys.stdin.closed else as_text(sys.stdin.buffer.read(), "stdin")


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
