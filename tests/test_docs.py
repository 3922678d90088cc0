"""What the documentation says is true."""

import contextlib
import io
import re
from importlib import import_module
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


def test_the_list_of_files_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    page = import_module("structure").files_page()
    again = "run python docs/structure.py > docs/files.md"
    assert (ROOT / "docs" / "files.md").read_text(encoding="utf-8") == page, again


def test_the_structure_is_short_and_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    cells = [cell for line in text.splitlines() if line.startswith("|") for cell in line.split(" | ")]
    assert max(map(len, cells)) < 104  # 100 characters, and the bars at the ends of a row
    for name in re.findall(r"`([a-z_/]+(?:\.py|\.toml|/))`", text):
        assert (ROOT / "specgen" / name).exists() or (ROOT / name).exists(), name


def test_every_room_stands_in_the_structure() -> None:
    text = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    rooms = [path for path in (ROOT / "specgen").iterdir() if (path / "__init__.py").exists()]
    assert not [path.name for path in rooms if f"`{path.name}/`" not in text]


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
