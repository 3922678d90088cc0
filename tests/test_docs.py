"""What the documentation says is true."""

import contextlib
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from specgen.cli.app import command_names
from specgen.core import errors

ROOT = Path(__file__).parent.parent


def test_the_example_of_the_interface_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/api.md", "exec"), {})
    text, summary = printed.getvalue().rsplit("\n", 2)[:2]
    assert len(text) > 40
    assert "drafted tokens accepted" in summary


def test_every_exit_code_is_listed() -> None:
    listed = {
        int(code) for code in re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "exit-codes.md").read_text(), re.MULTILINE)
    }
    kinds = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type)}
    assert listed == kinds | {0, errors.INTERRUPTED, errors.TERMINATED}


PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))


@pytest.mark.parametrize("document", PAGES)
def test_files_that_are_named_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for name in re.findall(r"`((?:specgen|docs|tests)/[\w/.]+?)/?`", text):
        assert (ROOT / name).exists(), name


def test_every_file_has_its_place_in_the_structure() -> None:
    text = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    files = [path for path in (ROOT / "specgen").rglob("*.py") if not path.name.startswith("__")]
    placed = ("commands", "drafters")  # one file a command, one file a drafter
    assert not [path for path in files if path.parent.name not in placed and f"{path.name}`" not in text]


@pytest.mark.parametrize("document", PAGES)
def test_only_commands_that_exist_are_named(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.findall(r"(`{3,4})(?:sh|console)\n(.*?)^\1$|(`specgen [^`]*`)", text, re.DOTALL | re.MULTILINE)
    commands = "\n".join("".join(parts) for parts in found)
    for word in re.findall(r"(?:^|[`|&$] ?)specgen ([a-z]+)\b", commands, re.MULTILINE):
        assert word in command_names(), word


def test_every_picture_is_shown_and_needs_nothing_from_elsewhere() -> None:
    shown = re.findall(r"\]\((screenshots/[^)]+)\)", (ROOT / "docs" / "screenshots.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted(f"screenshots/{file.name}" for file in (ROOT / "docs" / "screenshots").iterdir())
    for name in shown:
        picture = (ROOT / "docs" / name).read_text(encoding="utf-8")
        ElementTree.fromstring(picture)
        assert "url(http" not in picture.replace('"', "")
