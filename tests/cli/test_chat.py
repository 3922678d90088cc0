"""specgen chat, from a pipe and on a pseudo-terminal."""

import io
import json
from pathlib import Path
from typing import Any

import pexpect
import pyte
import pytest

from tests.cli.command import Outcome, invoke, terminal


@pytest.fixture
def target(checkpoints: Any) -> Path:
    return Path(checkpoints.target("llama"))


def chat(target: Path, *lines: str) -> Outcome:
    return invoke("chat", "-m", target, "-n", 8, stdin="\n".join([*lines, ""]).encode())


def test_each_line_is_a_turn_and_each_answer_a_line(target: Path) -> None:
    one = chat(target, "hello")
    two = chat(target, "hello", "", "again")
    assert one.code == two.code == 0
    assert one.out.count(b"\n") == 1
    assert two.out.startswith(one.out)
    assert two.out.count(b"\n") == 2
    # The second answer follows from the whole conversation, not from the last line alone.
    assert two.out != one.out + chat(target, "again").out


def test_commands_answer_on_stderr(target: Path) -> None:
    outcome = chat(target, "/stats", "/help", "/nonsense", "hello", "/stats", "/exit", "never said")
    assert outcome.out == chat(target, "hello").out
    for words in ("no answer yet", "/clear", "no command /nonsense", "8 tokens in"):
        assert words in outcome.err


def test_color_says_where_nothing_can_be_painted(target: Path) -> None:
    outcome = chat(target, "/color", "hello")
    assert outcome.out == chat(target, "hello").out
    assert "answers are not painted here" in outcome.err
    assert "/color" in chat(target, "/help").err


def test_a_trace_numbers_the_answers(target: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    outcome = invoke("chat", "-m", target, "-n", 8, "--trace", path, stdin=b"hello\nagain\n")
    assert outcome.out == chat(target, "hello", "again").out
    answers = {answer["answer"] for answer in map(json.loads, path.read_text().splitlines())}
    assert answers == {1, 2}


def test_clear_forgets(target: Path) -> None:
    outcome = chat(target, "hello", "/clear", "hello")
    assert outcome.out == chat(target, "hello").out * 2


def test_two_slashes_send_one(target: Path) -> None:
    outcome = chat(target, "//help")
    assert outcome.out
    assert "/clear" not in outcome.err


def test_a_failed_turn_ends_the_turn_not_the_chat(target: Path) -> None:
    outcome = chat(target, "long " * 300, "hello")
    assert outcome.code == 0
    assert "the context holds 256" in outcome.err
    assert outcome.out == chat(target, "hello").out


def test_a_model_without_a_template_continues_plain_text(checkpoints: Any) -> None:
    base = checkpoints.make("base", "llama", chat_template=None)
    outcome = chat(base, "hello", "again")
    assert outcome.out
    assert outcome.err.count("no chat template") == 1


def test_on_a_terminal(target: Path) -> None:
    said = chat(target, "hello").text.strip()
    # Nobody answers when prompt_toolkit asks this terminal where its cursor is.
    child = terminal("chat", "-m", target, "-n", 8, columns=100, PROMPT_TOOLKIT_NO_CPR="1")
    child.logfile_read = sent = io.StringIO()
    child.expect_exact(ready := "\x1b[?2004h")
    child.send("hello\r")
    child.expect_exact("stopped at the token limit")
    child.expect_exact(ready)
    child.send("/nonsense\r")
    child.expect_exact("no command /nonsense")
    child.expect_exact(ready)
    child.sendeof()
    child.expect_exact("\x1b[?2004l")  # prompt_toolkit leaves the terminal as it was
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0
    screen = pyte.Screen(100, 24)
    pyte.Stream(screen).feed(sent.getvalue())
    assert said in "".join(line.rstrip() for line in screen.display)


def test_color_paints_the_answers_and_back(target: Path) -> None:
    child = terminal("chat", "-m", target, "-n", 4, columns=100, PROMPT_TOOLKIT_NO_CPR="1")
    bonus = "\x1b[35m"  # what a target says that drafts nothing
    child.expect_exact(ready := "\x1b[?2004h")
    for words, expected in (("hello", False), ("/color", True), ("hello", True), ("/color", False), ("hello", False)):
        child.send(f"{words}\r")
        child.expect_exact(ready)
        assert (bonus in child.before) == expected, words
    child.sendeof()
    child.expect(pexpect.EOF)
