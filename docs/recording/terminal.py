"""A terminal to record: a command on a pseudo-terminal, and the screen that it leaves, as text or as SVG.

Needs what the extra `test` installs, and `specgen` on the PATH. SPECGEN_THREADS=1 where other programs are busy.
"""

import os
import re
import time
from collections.abc import Callable
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any

import pexpect
import pyte
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.style import Style
from rich.text import Text

COLUMNS = 80
_PATIENCE_S = 900.0
_QUIET_S = 0.5  # a screen is done changing when nothing came for so long
# What of this machine may not decide what is recorded; with how many threads it computes may.
_FOREIGN = re.compile(
    r"SPECGEN_(?!THREADS)|PROMPT_TOOLKIT_|TERM|COLORTERM$|NO_COLOR$|FORCE_COLOR$|COLUMNS$|LINES$|VISUAL$|EDITOR$"
)
_OWN = {"TERM": "xterm-256color", "SPECGEN_DATA_DIR": ".local/share/specgen", "SPECGEN_CONFIG_DIR": ".config/specgen"}
_OWN["SPECGEN_KEEP_ALIVE"] = "off"  # a recording leaves nothing behind
_NAMED = {"brown": "yellow"}  # pyte's name for it
# An SVG in a page loads no fonts; the reader's own do.
_SVG = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


class Terminal:
    """`command` run by bash in `folder`, where specgen also keeps its files, on a terminal of `rows` and COLUMNS."""

    def __init__(self, command: str, folder: Path, rows: int) -> None:
        kept = {name: value for name, value in os.environ.items() if not _FOREIGN.match(name)}
        self._child = pexpect.spawn(
            "/bin/bash",
            ["-c", command],
            cwd=str(folder),
            dimensions=(rows, COLUMNS),
            env={**kept, **_OWN},
            encoding="utf-8",
        )
        self.screen = _Screen(COLUMNS, rows)
        self.screen.write_process_input = self._child.send  # where the cursor is, when asked
        self._stream = pyte.Stream(self.screen)

    def type(self, line: str) -> None:
        """Type a line, and Enter."""
        self._child.send(line + "\r")

    def wait(self, until: Callable[[list[str]], object]) -> None:
        """Until the screen's lines are as wanted. Raises TimeoutError."""
        self._read_until(lambda _: bool(until(self.lines())))

    def wait_for_prompt(self) -> None:
        """Until the chat waits for a line."""
        self._read_until(lambda quiet: quiet > _QUIET_S and self._row() == ">" and self.screen.cursor.x == 2)

    def wait_for_end(self) -> None:
        """Until the command has ended."""
        self._read_until(lambda _: False)
        self._child.wait()

    def close(self) -> None:
        self._child.close(force=True)

    def lines(self) -> list[str]:
        """What the screen shows, down to its last line that is not empty."""
        lines = [line.rstrip() for line in self.screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def svg(self, title: str) -> str:
        """The screen as a picture; the same screen is the same picture."""
        console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor")
        for row in range(len(self.lines())):
            cells = [self.screen.buffer[row][column] for column in range(COLUMNS)]
            line = Text()
            for look, same in groupby(cells, lambda cell: cell._replace(data="")):
                # A word at its place: viewers differ in how they set a run of words, and drop blanks at its start.
                for part in re.findall(r" +|[^ ]+", "".join(cell.data for cell in same)):
                    line.append(part, _style(look))
            console.print(line, no_wrap=True, overflow="crop")
        picture = console.export_svg(title=title, code_format=_SVG, unique_id="screen")
        return "\n".join(line.rstrip() for line in picture.split("\n"))

    def _row(self) -> str:
        return str(self.screen.display[self.screen.cursor.y]).rstrip()

    def _read_until(self, done: Callable[[float], bool]) -> None:
        """`done` is asked after everything that came, with the seconds since then."""
        began = last = time.monotonic()
        while not done(time.monotonic() - last):
            if time.monotonic() - began > _PATIENCE_S:
                raise TimeoutError("\n".join(self.lines()))
            try:
                self._stream.feed(self._child.read_nonblocking(65536, timeout=0.1))
                last = time.monotonic()
            except pexpect.TIMEOUT:
                pass
            except pexpect.EOF:
                return


class _Screen(pyte.Screen):
    """Knows dim text, which pyte does not: kept as blinking, which specgen never does."""

    def select_graphic_rendition(self, *attributes: int, **how: Any) -> None:
        known = []
        for attribute in attributes:
            known += {2: [5], 22: [22, 25]}.get(attribute, [attribute])
        super().select_graphic_rendition(*known, **how)


def _style(cell: Any) -> Style:
    return Style(
        color=_color(cell.fg),
        bgcolor=_color(cell.bg),
        bold=cell.bold,
        dim=cell.blink,
        italic=cell.italics,
        underline=cell.underscore,
        strike=cell.strikethrough,
        reverse=cell.reverse,
    )


def _color(name: str) -> str | None:
    if name == "default":
        return None
    if re.fullmatch(r"[0-9a-f]{6}", name):
        return f"#{name}"
    name = _NAMED.get(name, name)
    return f"bright_{_NAMED.get(name[6:], name[6:])}" if name.startswith("bright") else name
