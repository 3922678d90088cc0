"""Copying through the terminal."""

import base64
import io
import sys

import pytest

from specgen.cli import clipboard
from specgen.errors import SpecgenError


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def no_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("TERM", "xterm")


def copied(text: str) -> str:
    """What a terminal on stderr is told when `text` is copied."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", screen := Screen())
        assert "terminal" in clipboard.copy(text)
    return screen.getvalue()


def test_the_terminal_is_asked() -> None:
    text = "é\x1b]"
    assert copied(text) == f"\x1b]52;c;{base64.b64encode(text.encode()).decode()}\x07"


def test_a_terminal_that_cannot_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with pytest.raises(SpecgenError, match="neither a terminal"):
        copied("text")


def test_a_text_that_terminals_drop_is_refused() -> None:
    with pytest.raises(SpecgenError, match="as long as this"):
        copied("x" * 60_000)
