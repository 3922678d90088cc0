"""What the user may have meant by a command or a model that there is not."""

import importlib
from collections.abc import Iterable, Sequence

from specgen.cli import commands
from specgen.cli.completion import model_names
from specgen.core.errors import DownloadFailed, ModelNotFound, NotCached
from specgen.core.types import ModelRef
from specgen.core.words import nearest

_NEAR = 0.65  # rnu is that near to run


def model_meant(error: Exception, words: Sequence[str]) -> str | None:
    """The known model whose name is nearest to the word of the command line that `error` is about."""
    if not isinstance(error, ModelNotFound | NotCached | DownloadFailed) or "did you mean" in str(error):
        return None
    known = model_names()
    for word in words:
        name = ModelRef.parse(word).source
        if name and name in error.message and name not in known:
            # Capitals are often wrong, and never the only difference between two models.
            by_lower = {each.lower(): each for each in known}
            if near := nearest(name.lower(), by_lower, _NEAR):
                return by_lower[near]
    return None


def command_meant(words: Sequence[str], names: Iterable[str]) -> str | None:
    """The command that is nearest to the first word, where the words look like one more than like a prompt."""
    first, *rest = words
    near = nearest(first, names, _NEAR) if first.isalpha() else None
    if near is None:
        return None
    alone = not rest or rest[0].startswith("-")
    return near if alone or rest[0] in _sub_commands(near) else None


def _sub_commands(name: str) -> set[str]:
    app = getattr(importlib.import_module(f"{commands.__name__}.{name}"), "app", None)
    registered = app.registered_commands if app else ()
    return {command.name or command.callback.__name__ for command in registered}
