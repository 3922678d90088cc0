"""Run the transcripts of docs/guide.md again, and write what comes out into them.

    python docs/recording/guide.py FOLDER            # FOLDER holds the model's own folder, smollm2-135m
    python docs/recording/guide.py FOLDER --check    # write nothing; exit code 1 where a text differs

A transcript is a block of `console` between four backticks, since answers have three. What is typed is read from it: a
line after `$ ` is run by bash, with the lines that a `\\` continues, and lines after `> ` are typed into that program's
chat. All else is what the terminal showed. Figures are not compared: they follow from the machine.
"""

import argparse
import difflib
import re
import sys
import tempfile
from pathlib import Path

from terminal import COLUMNS, Terminal

ROOT = Path(__file__).parent.parent.parent
GUIDE = ROOT / "docs" / "guide.md"
ROWS = 400  # nothing may scroll away
_BLOCK = re.compile(r"(?<=^````console\n).*?(?=^````$)", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n", re.MULTILINE)
_TYPED = re.compile(r"^> (.+)$", re.MULTILINE)
_FIGURES = re.compile(r".*tok/s|acceptance rate|.*by position|accept lengths|time \d|.*drafted in vain|nothing drafted")


def run(command: str, typed: list[str], workplace: Path) -> str:
    """What the terminal showed of one command."""
    terminal = Terminal(command, workplace, ROWS)
    for line in typed:
        if len(line) + len("> ") >= COLUMNS:
            raise SystemExit(f"too long for one row: {line}")
        terminal.wait_for_prompt()
        terminal.type(line)
    terminal.wait_for_end()
    return "".join(f"{line}\n" for line in terminal.lines())


def recorded(block: str, workplace: Path) -> str:
    """A transcript made anew."""
    _, *parts = _COMMAND.split(block)
    made = ""
    for command, shown in zip(parts[::2], parts[1::2], strict=True):
        print(f"$ {command}", file=sys.stderr)
        made += f"$ {command}\n" + run(command, _TYPED.findall(shown), workplace)
    return made


def without_figures(text: str) -> list[str]:
    return [line for line in text.splitlines() if not _FIGURES.match(line)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the transcripts of docs/guide.md again.")
    parser.add_argument("folder", type=Path, help="holds smollm2-135m, a folder with SmolLM2-135M-Instruct")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a text differs")
    arguments = parser.parse_args()
    old = GUIDE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        workplace = Path(name)
        for folder in (ROOT / "docs", ROOT / "specgen", arguments.folder.resolve() / "smollm2-135m"):
            (workplace / folder.name).symlink_to(folder)
        new = _BLOCK.sub(lambda block: recorded(block[0], workplace), old)
    if not arguments.check:
        GUIDE.write_text(new, encoding="utf-8")
        return
    changes = list(difflib.unified_diff(without_figures(old), without_figures(new), "the guide", "now", lineterm=""))
    print("\n".join(changes))
    sys.exit(bool(changes))


if __name__ == "__main__":
    main()
