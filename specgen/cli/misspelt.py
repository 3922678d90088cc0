"""Did you mean: what the user may have meant by a name that leads nowhere."""

import importlib
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from specgen.cli import commands
from specgen.cli.completing import model_names
from specgen.errors import DownloadFailed, ModelNotFound, NotCached

_NEAR = 0.65  # rnu is that near to run


def model_meant(error: Exception, words: Sequence[str]) -> str | None:
    """The known model whose name is nearest to the word of the command line that `error` is about."""
    if not isinstance(error, ModelNotFound | NotCached | DownloadFailed) or "did you mean" in str(error):
        return None
    known = model_names()
    for word in words:
        name = word.partition("@")[0]
        if name and name in error.message and name not in known:
            # Capitals are often wrong, and never the only difference between two models.
            by_lower = {each.lower(): each for each in known}
            if near := get_close_matches(name.lower(), by_lower, 1, _NEAR):
                return by_lower[near[0]]
    return None


def command_meant(words: Sequence[str], names: Iterable[str]) -> str | None:
    """The command that is nearest to the first word, where the words look like one more than like a prompt."""
    first, *rest = words
    near = get_close_matches(first, list(names), 1, _NEAR) if first.isalpha() else []
    if not near:
        return None
    alone = not rest or rest[0].startswith("-")
    return near[0] if alone or rest[0] in _sub_commands(near[0]) else None


def _sub_commands(name: str) -> set[str]:
    app = getattr(importlib.import_module(f"{commands.__name__}.{name}"), "app", None)
    registered = app.registered_commands if app else ()
    return {command.name or command.callback.__name__ for command in registered}
