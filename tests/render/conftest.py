import os
from collections.abc import Callable

import pytest

from tests.render.streams import Screen, Terminal


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def terminals(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Terminal, Terminal]]:
    """stdout and stderr on one screen."""

    def make(columns: int = 80, lines: int = 10) -> tuple[Terminal, Terminal]:
        screen = Screen(columns, lines)
        size = os.terminal_size((columns, lines))
        monkeypatch.setattr(os, "get_terminal_size", lambda *_: size)
        monkeypatch.setattr(Terminal, "fileno", lambda _: 1)
        return Terminal(screen), Terminal(screen)

    return make
