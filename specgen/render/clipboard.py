"""Text to the clipboard: by a tool of the platform, else by the terminal itself."""

import base64
import os
import shutil
import subprocess
import sys
from typing import TextIO

from specgen.core.errors import SpecgenError
from specgen.render.terminal import can_draw

_TIMEOUT_S = 5
# What xterm takes in one OSC 52, the least of the common terminals.
_OSC52_BYTES = 100_000
_HINT = "write the text to a file instead, or install wl-clipboard, xclip or xsel"


def copy(text: str, terminal: TextIO) -> str:
    """Put `text` on the clipboard; returns by what it went, for a message.

    A tool of the platform is asked first; over SSH, or where there is none, `terminal` is, by OSC 52, which reaches
    the clipboard of whoever sits at it but answers nothing. Raises SpecgenError where there is neither.
    """
    failure = ""
    for command in _tools():
        try:
            # Some tools stay and serve the text: nobody may wait for their output.
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
        raise SpecgenError(f"cannot copy: {failure}there is no terminal to ask", hint=_HINT)
    data = base64.b64encode(text.encode("utf-8", "replace"))
    if len(data) > _OSC52_BYTES:
        raise SpecgenError(f"cannot copy: {failure}the text is too long for a terminal's clipboard", hint=_HINT)
    terminal.write(f"\x1b]52;c;{data.decode('ascii')}\x07")
    terminal.flush()
    return "the terminal (OSC 52)"


def _tools() -> list[list[str]]:
    """The commands that may reach this user's clipboard, best first."""
    has = os.environ.get
    known = {
        # tmux keeps OSC 52 of programs to itself unless told otherwise, and passes this on.
        ("tmux", "load-buffer", "-w", "-"): has("TMUX"),
        ("pbcopy",): sys.platform == "darwin" and not has("SSH_CONNECTION"),
        ("clip.exe",): sys.platform == "win32" or has("WSL_DISTRO_NAME"),
        ("wl-copy",): has("WAYLAND_DISPLAY"),
        ("xclip", "-selection", "clipboard"): has("DISPLAY"),
        ("xsel", "--clipboard", "--input"): has("DISPLAY"),
    }
    return [list(command) for command, usable in known.items() if usable and shutil.which(command[0])]
