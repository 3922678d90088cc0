"""The file of pins: the commit of each hub model that this user runs.

A model is pinned at its first use. Later runs use that commit and do not ask the hub. Only `specgen update` and
`specgen rollback` move pins.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli
import tomli_w
from filelock import FileLock

from specgen.core.errors import BadFile, SpecgenError
from specgen.core.files import config_folder, read_text, replace_file
from specgen.core.words import reason

_HEAD = "# The commit of each model that specgen uses. `specgen update` and `specgen rollback` change it.\n\n"
_MAX_FORMER = 20  # former commits of a model


@dataclass(frozen=True, slots=True)
class Pin:
    """`commit` is in use; it was resolved from `revision`. `former` are earlier commits, oldest first."""

    commit: str
    revision: str
    former: tuple[str, ...] = ()


def file() -> Path:
    """The path of the pins, which may not exist yet."""
    return config_folder() / "pins.toml"


def pins() -> dict[str, Pin]:
    """Model id -> pin. Raises BadFile."""
    try:
        tables = tomli.loads(read_text(file()))
        return {name: _pin(table) for name, table in tables.items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = reason(error) if isinstance(error, OSError) else "it does not hold pins"
        raise BadFile(f"cannot read {file()}: {why}", hint="correct it, or delete it") from error


def pin_of(model: str) -> Pin | None:
    """The pin of a model id, None without one. Raises BadFile."""
    return pins().get(model)


def add(model: str, commit: str, revision: str) -> None:
    """Pin a model unless it has a pin. Ignores a folder that cannot be written."""
    if model not in pins():
        with contextlib.suppress(SpecgenError), _transaction() as known:
            known.setdefault(model, Pin(commit, revision))


def move(model: str, commit: str, revision: str, was: str | None = None) -> None:
    """Pin a model to another commit. `was` is its former commit if it had no pin. Raises BadFile."""
    with _transaction() as known:
        old = known.get(model) or Pin(was or commit, revision)
        former = old.former if old.commit == commit else (*old.former, old.commit)
        known[model] = Pin(commit, revision, former[-_MAX_FORMER:])


def roll_back(model: str) -> None:
    """Pin a model to its former commit. Raises BadFile."""
    with _transaction() as known:
        *former, commit = known[model].former
        known[model] = Pin(commit, known[model].revision, tuple(former))


def remove(is_gone: Callable[[str, str], bool]) -> None:
    """Remove the commits for which `is_gone(model, commit)`. The latest remaining one is the pin. Raises BadFile."""
    if not any(is_gone(model, commit) for model, pin in pins().items() for commit in (*pin.former, pin.commit)):
        return
    with _transaction() as known:
        for model, pin in list(known.items()):
            left = [commit for commit in (*pin.former, pin.commit) if not is_gone(model, commit)]
            if left:
                known[model] = Pin(left[-1], pin.revision, tuple(left[:-1]))
            else:
                del known[model]


@contextlib.contextmanager
def _transaction() -> Iterator[dict[str, Pin]]:
    """Yields the pins under a lock, and writes them back unless the body raised. Raises BadFile."""
    path = file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            known = pins()
            yield known
            tables = {name: _table(pin) for name, pin in sorted(known.items())}
            replace_file(path, _HEAD + tomli_w.dumps(tables))
    except OSError as error:
        raise BadFile(f"cannot write {path}: {reason(error)}", hint="check its permissions") from error


def _table(pin: Pin) -> dict[str, Any]:
    former = {"former": list(pin.former)} if pin.former else {}
    return {"commit": pin.commit, "revision": pin.revision, **former}


def _pin(table: Mapping[str, Any]) -> Pin:
    texts = (table["commit"], table["revision"], *table.get("former", ()))
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError
    return Pin(texts[0], texts[1], texts[2:])
