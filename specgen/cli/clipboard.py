"""Copying text to the clipboard: by a tool of the platform, or by asking the terminal (OSC 52)."""

import base64
import contextlib
import os
import shutil
import subprocess
import sys

from specgen.errors import SpecgenError
from specgen.render.terminal import can_draw

# A tool, and the variable that must be set for it to reach the user's own clipboard; None: it does unless over SSH.
_TOOLS = (
    ("TMUX", ("tmux", "load-buffer", "-w", "-")),
    ("WAYLAND_DISPLAY", ("wl-copy",)),
    ("DISPLAY", ("xclip", "-selection", "clipboard")),
    ("DISPLAY", ("xsel", "--clipboard", "--input")),
    (None, ("pbcopy",)),
    (None, ("clip.exe",)),
)
_PATIENCE_S = 5
_OSC_52_BYTES = 74_994  # of base64: what xterm takes, and others too


def copy(text: str) -> str:
    """Copy `text`; gives how, in words. Raises SpecgenError where there is no way."""
    for variable, command in _TOOLS:
        reaches = os.environ.get(variable) if variable else not os.environ.get("SSH_CONNECTION")
        if reaches and shutil.which(command[0]) and _run(command, text):
            return f"copied with {command[0]}"
    if not any(can_draw(stream) for stream in (sys.stdout, sys.stderr)):
        raise SpecgenError(
            "nothing was copied: there is neither a terminal nor a tool for its clipboard",
            hint="install wl-copy or xclip, or write the text to a file",
        )
    encoded = base64.b64encode(text.encode("utf-8", "replace"))
    if len(encoded) > _OSC_52_BYTES:
        raise SpecgenError("nothing was copied: terminals take no text as long as this", hint="write it to a file")
    stream = sys.stderr if can_draw(sys.stderr) else sys.stdout
    stream.write(f"\x1b]52;c;{encoded.decode()}\x07")
    stream.flush()
    return "copied through the terminal, if it allows that"


def _run(command: tuple[str, ...], text: str) -> bool:
    """Whether the tool took the text. Its streams are closed to it: some stay to serve what was copied."""
    nothing = subprocess.DEVNULL
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        data = text.encode("utf-8", "replace")
        done = subprocess.run(command, input=data, stdout=nothing, stderr=nothing, timeout=_PATIENCE_S, check=False)
        return done.returncode == 0
    return False
