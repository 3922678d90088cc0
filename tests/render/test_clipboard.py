"""The clipboard: by a tool, by the terminal, or an error."""

import base64
from pathlib import Path
from typing import Any

import pytest

from specgen.core.errors import SpecgenError
from specgen.render.clipboard import copy
from tests.render.streams import Pipe


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No clipboard tools except those of the test in `tmp_path`."""
    for name in ("TMUX", "WAYLAND_DISPLAY", "DISPLAY", "WSL_DISTRO_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSH_CONNECTION", "here")
    monkeypatch.setenv("PATH", str(tmp_path))


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_tool_of_the_platform_gets_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminals: Any) -> None:
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    tool(tmp_path, "wl-copy", f'/bin/cat > "{tmp_path}/copied"')
    _, stderr = terminals()
    assert copy("für 日本\n", stderr) == "wl-copy"
    assert (tmp_path / "copied").read_text(encoding="utf-8") == "für 日本\n"
    assert not stderr.sent


def test_the_terminal_is_asked_where_no_tool_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminals: Any
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    tool(tmp_path, "xclip", "exit 1")
    _, stderr = terminals()
    assert "OSC 52" in copy("für\x1b", stderr)
    sent = bytes(stderr.sent)
    assert sent.startswith(b"\x1b]52;c;")
    assert sent.endswith(b"\x07")
    assert base64.b64decode(sent[7:-1]).decode() == "für\x1b"


def test_what_cannot_be_copied_is_said(monkeypatch: pytest.MonkeyPatch, terminals: Any) -> None:
    with pytest.raises(SpecgenError, match="no terminal"):
        copy("text", Pipe())
    _, stderr = terminals()
    with pytest.raises(SpecgenError, match="too long"):
        copy("x" * 200_000, stderr)
    monkeypatch.setenv("TERM", "dumb")
    with pytest.raises(SpecgenError, match="no terminal"):
        copy("text", stderr)
    assert not stderr.sent
