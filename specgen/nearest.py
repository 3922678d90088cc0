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
