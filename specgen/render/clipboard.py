"""Copying text to the clipboard, by a tool of the platform or by the terminal."""

import base64
import os
import shutil
import subprocess
import sys
from typing import TextIO

from specgen.core.errors import SpecgenError
from specgen.render.terminal import can_draw

_TIMEOUT_S = 5
# Limit of xterm for one OSC 52 sequence, the lowest of the common terminals.
_OSC52_BYTES = 100_000
_HINT = "write the text to a file instead, or install wl-clipboard, xclip or xsel"


def copy(text: str, terminal: TextIO) -> str:
    """Copy `text` to the clipboard and return the name of the tool.

    Tries the tools of the platform first. Without one, or over SSH, it sends OSC 52 to `terminal`, which reaches the
    clipboard of the user but confirms nothing. Raises SpecgenError if neither works.
    """
    failure = ""
    for command in _tools():
        try:
            # Some tools keep running to serve the text, so do not wait for their output.
            subprocess.run(
                command,
                input=text.encode("utf-8", "replace"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_TIMEOUT_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            failure = f"{command[0]} failed and "
            continue
        return command[0]
    if not can_draw(terminal):
        raise SpecgenError(f"cannot copy: {failure}there is no terminal", hint=_HINT)
    data = base64.b64encode(text.encode("utf-8", "replace"))
    if len(data) > _OSC52_BYTES:
        raise SpecgenError(f"cannot copy: {failure}the text is too long for a terminal's clipboard", hint=_HINT)
    terminal.write(f"\x1b]52;c;{data.decode('ascii')}\x07")
    terminal.flush()
    return "the terminal (OSC 52)"


def _tools() -> list[list[str]]:
    """The commands that may reach the clipboard of this user, best first."""
    has = os.environ.get
    known = {
        # tmux blocks OSC 52 of programs by default, but forwards its own buffer.
        ("tmux", "load-buffer", "-w", "-"): has("TMUX"),
        ("pbcopy",): sys.platform == "darwin" and not has("SSH_CONNECTION"),
        ("clip.exe",): sys.platform == "win32" or has("WSL_DISTRO_NAME"),
        ("wl-copy",): has("WAYLAND_DISPLAY"),
        ("xclip", "-selection", "clipboard"): has("DISPLAY"),
        ("xsel", "--clipboard", "--input"): has("DISPLAY"),
    }
    return [list(command) for command, usable in known.items() if usable and shutil.which(command[0])]
