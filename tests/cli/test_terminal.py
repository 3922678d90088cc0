"""specgen on a pseudo-terminal."""

import json
import shutil
from pathlib import Path
from typing import Any

import pexpect
import pyte
import pytest

from tests.cli.command import invoke, terminal


def screen_of(child: Any, columns: int) -> list[str]:
    """The screen when the program has ended."""
    child.expect(pexpect.EOF)
    child.wait()
    screen = pyte.Screen(columns, 24)
    pyte.Stream(screen).feed(child.before)
    return [line.rstrip() for line in screen.display if line.strip()]


@pytest.mark.parametrize("columns", [120, 40])
def test_text_then_summary(checkpoints: Any, columns: int) -> None:
    target = Path(checkpoints.target("llama"))
    arguments = ("-m", target, "--raw", "-n", 24, "the quick brown fox")
    text = invoke(*arguments).text
    child = terminal(*arguments, columns=columns)
    lines = screen_of(child, columns)
    assert child.exitstatus == 0
    shown = "".join(lines)
    assert shown.startswith("".join(text.split("\n"))[:20].rstrip())
    assert any(line.startswith("24 tokens in") for line in lines)
    assert shown.count("tok/s") == 1, "the live line is gone"


def test_a_dumb_terminal_gets_no_codes(checkpoints: Any) -> None:
    child = terminal("-m", checkpoints.target("llama"), "--raw", "-n", 4, "hello", TERM="dumb")
    child.expect(pexpect.EOF)
    assert "\x1b" not in child.before


def test_escape_sequences_in_the_text_are_shown_not_sent(checkpoints: Any, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile"
    shutil.copytree(checkpoints.target("llama"), hostile)
    arguments = ("-m", hostile, "--raw", "-n", 4, "hello")
    said = json.loads(invoke(*arguments, "--json").text.splitlines()[1])["tokens"][0]
    tokenizer = json.loads((hostile / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    escape = chr(0x100 + 0x1B)  # how a byte-level vocabulary writes the byte of the escape character
    word = next(token for token, index in vocabulary.items() if index == said)
    vocabulary[word], vocabulary[escape] = vocabulary[escape], said
    (hostile / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert invoke(*arguments).out.startswith(b"\x1b"), "a pipe gets the text as it is"
    child = terminal(*arguments, "-q")
    child.expect(pexpect.EOF)
    assert child.before.startswith("\u241b")
    assert "\x1b" not in child.before


def test_no_prompt_prints_help_and_does_not_wait() -> None:
    child = terminal()
    child.expect_exact("Usage: specgen")
    child.expect(pexpect.EOF)
