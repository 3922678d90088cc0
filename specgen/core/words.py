"""Did you mean: the name that is nearest to one that leads nowhere."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, names: Iterable[str], least: float = 0.6) -> str | None:
    """The one of `names` that is most like `name`, None where none is as like it as `least`, from 0 to 1."""
    return next(iter(get_close_matches(name, list(names), 1, least)), None)


def meant(name: str, names: Iterable[str], otherwise: str) -> str:
    """A hint: the nearest of `names`, or else `otherwise`."""
    near = nearest(name, names)
    return f"did you mean '{near}'?" if near else otherwise


def in_words(count: int) -> str:
    """A size in the unit that suits it, powers of 1,000 as disks and the hub count."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}" if unit == 1e9 else f"{count / unit:.0f} {name}"
    return f"{count} bytes"
