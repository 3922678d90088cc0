"""Take the pictures of docs/screenshots.md: specgen on a terminal, and what stood on its screen.

python docs/recording/screenshots.py FOLDER    # FOLDER holds the model's own folder, smollm2-135m
"""

import argparse
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from terminal import Terminal

DOCS = Path(__file__).parent.parent
ROWS = 30
STORY = 'specgen -m stories --temp 0.8 --seed 5 -n 120 "The fox said"'
PYTHON = "Write a Python function that doubles a number."
CHAT = "specgen chat -m smollm2-135m -n 120 --temp 0.3 --seed 1"


def live_line(workplace: Path) -> str:
    """The line below the text while it streams."""
    terminal = Terminal(STORY, workplace, ROWS)
    terminal.wait(lambda lines: any(re.match(r"(8\d|9\d|1\d\d) tokens", line) for line in lines))
    picture = terminal.svg(STORY)
    terminal.close()
    return picture


def sources(workplace: Path) -> str:
    """Text painted by where it came from, and the summary."""
    command = STORY.replace("-n", "--color-source -n")
    terminal = Terminal(command, workplace, ROWS)
    terminal.wait_for_end()
    return terminal.svg(command)


def legend(workplace: Path) -> str:
    """The same in a chat, which says which colour is which."""
    return chat("specgen chat -m stories --temp 0.8 --seed 7 -n 80", workplace, "/color", "The fox said", "/stats")


def markdown(workplace: Path) -> str:
    """A chat with Markdown rendered."""
    return chat(CHAT, workplace, "What are **bold** and *italic* for?", PYTHON)


def chat(command: str, workplace: Path, *lines: str) -> str:
    terminal = Terminal(command, workplace, ROWS)
    for line in lines:
        terminal.wait_for_prompt()
        terminal.type(line)
    terminal.wait_for_prompt()
    picture = terminal.svg(command)
    terminal.close()
    return picture


PICTURES: dict[str, Callable[[Path], str]] = {
    "live-line": live_line,
    "color-source": sources,
    "chat-color": legend,
    "chat": markdown,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Take the pictures of docs/screenshots.md.")
    parser.add_argument("folder", type=Path, help="holds smollm2-135m, a folder with SmolLM2-135M-Instruct")
    parser.add_argument("names", nargs="*", default=list(PICTURES), help="of pictures; all of them if left out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        workplace = Path(name)
        (workplace / "smollm2-135m").symlink_to(arguments.folder.resolve() / "smollm2-135m")
        for picture in arguments.names:
            (DOCS / "screenshots" / f"{picture}.svg").write_text(PICTURES[picture](workplace), encoding="utf-8")


if __name__ == "__main__":
    main()
