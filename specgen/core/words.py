"""Words for messages: sizes, counts, first lines, and the nearest known name."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, names: Iterable[str], least: float = 0.6) -> str | None:
    """The most similar of `names`, or None below a similarity of `least`, from 0 to 1."""
    return next(iter(get_close_matches(name, list(names), 1, least)), None)


def did_you_mean(name: str, names: Iterable[str], otherwise: str) -> str:
    """A hint that names the nearest of `names`, or `otherwise`."""
    near = nearest(name, names)
    return f"did you mean '{near}'?" if near else otherwise


def format_bytes(count: int) -> str:
    """A size in bytes with a decimal unit, as disks and the hub count: 1.2 GB, 350 MB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}" if unit == 1e9 else f"{count / unit:.0f} {name}"
    return f"{count} bytes"


def plural(count: int, noun: str, plural_noun: str = "") -> str:
    """A count with its noun: 1 answer, 2 answers."""
    return f"{count} {noun if count == 1 else plural_noun or f'{noun}s'}"


def shorten(text: str, length: int) -> str:
    """At most `length` characters of a text, with an ellipsis where it is cut."""
    return text if len(text) <= length else text[: length - 3] + "..."


def first_line(error: BaseException) -> str:
    """The first line of an exception's message that has text, else the name of its class."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def reason(error: BaseException) -> str:
    """Why something failed: the system's message of an OSError, else the first line of the exception."""
    return (error.strerror if isinstance(error, OSError) else None) or first_line(error)
