"""Which commit a model of the hub means to this user: the file of pins.

A name is pinned at its first use, and every later run uses that commit, without asking the hub. `specgen update` and
`specgen rollback` move pins; nothing else does.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli
import tomli_w
from filelock import FileLock

from specgen.config import settings
from specgen.core.errors import BadFile, SpecgenError

_HEAD = "# The commit that each model means to specgen. `specgen update` and `specgen rollback` move them.\n\n"
_KEPT = 20  # former commits of a model


@dataclass(frozen=True, slots=True)
class Pin:
    """`commit` is in use. `revision` is the branch, tag or commit that it was; `former` came before, oldest first."""

    commit: str
    revision: str
    former: tuple[str, ...] = ()


def file() -> Path:
    """Where the pins are, whether or not it exists."""
    return settings.folder() / "pins.toml"


def pins() -> dict[str, Pin]:
    """Every pin by the id of its model. Raises BadFile."""
    try:
        tables = tomli.loads(file().read_text(encoding="utf-8"))
        return {name: _pin(table) for name, table in tables.items()}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it does not hold pins"
        raise BadFile(f"cannot read {file()}: {reason}", hint="correct it, or delete it") from error


def pin_of(model: str) -> Pin | None:
    """The pin of a model, by its id. Raises BadFile."""
    return pins().get(model)


def add(model: str, commit: str, revision: str) -> None:
    """Pin a model that is not pinned yet. A folder that cannot be written is no reason to fail."""
    if model not in pins():
        with contextlib.suppress(SpecgenError), _transaction() as known:
            known.setdefault(model, Pin(commit, revision))


def move(model: str, commit: str, revision: str, was: str | None = None) -> None:
    """Pin a model to another commit. `was` is what it meant before where it had no pin. Raises BadFile."""
    with _transaction() as known:
        old = known.get(model) or Pin(was or commit, revision)
        former = old.former if old.commit == commit else (*old.former, old.commit)
        known[model] = Pin(commit, revision, former[-_KEPT:])


def roll_back(model: str) -> None:
    """Pin a model to its former commit. Raises BadFile."""
    with _transaction() as known:
        *former, commit = known[model].former
        known[model] = Pin(commit, known[model].revision, tuple(former))


def remove(is_gone: Callable[[str, str], bool]) -> None:
    """Drop the commits of which `is_gone(model, commit)`; the latest that is left is the pin. Raises BadFile."""
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
    """The pins, written back at the end unless something failed; one process at a time. Raises BadFile."""
    path = file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            known = pins()
            yield known
            tables = {name: _table(pin) for name, pin in sorted(known.items())}
            new = path.with_name(f"{path.name}.{os.getpid()}")
            new.write_text(_HEAD + tomli_w.dumps(tables), encoding="utf-8")
            new.replace(path)
    except OSError as error:
        raise BadFile(f"cannot write {path}: {error.strerror}", hint="check its permissions") from error


def _table(pin: Pin) -> dict[str, Any]:
    former = {"former": list(pin.former)} if pin.former else {}
    return {"commit": pin.commit, "revision": pin.revision, **former}


def _pin(table: Mapping[str, Any]) -> Pin:
    texts = (table["commit"], table["revision"], *table.get("former", ()))
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError
    return Pin(texts[0], texts[1], texts[2:])
