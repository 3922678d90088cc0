"""specgen chat, from a pipe and on a pseudo-terminal."""

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pexpect
import pyte
import pytest

from tests.cli.command import Outcome, in_process, invoke, terminal
from tests.render.streams import Screen


@pytest.fixture
def target(checkpoints: Any, either_way: None) -> Path:
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
    assert "stdout is not a terminal with colours" in outcome.err
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


def test_commands_change_the_conversation(target: Path, tmp_path: Path) -> None:
    """One answer after the other, each as if it had been asked for alone."""
    (tmp_path / "notes.txt").write_text("the fox")
    saved = tmp_path / "chat.json"
    outcome = chat(
        target,
        "hello",
        "/undo",
        "hello",
        "/regen",
        f"/save {saved}",
        f"/save {saved}",
        "/clear",
        f"/file {tmp_path / 'notes.txt'}",
        '"""hello',
        'there"""',
        "/clear",
        "/system be kind",
        "hello",
        "/system none",
        "/undo",
        "hello",
        "/spec off",
        "/set max_tokens 3",
        "/regen",
        f"/load {saved}",
        "/regen",
        "/show",
    )
    assert outcome.code == 0
    one = chat(target, "hello").out
    block = invoke("chat", "-m", target, "-n", 8, stdin=b'"""notes.txt:\n\nthe fox\n\nhello\nthere"""\n').out
    kind = invoke("chat", "-m", target, "-n", 8, "-s", "be kind", stdin=b"hello\n").out
    short = invoke("chat", "-m", target, "-n", 3, stdin=b"hello\n").out
    assert outcome.out == one * 3 + block + kind + one + short + one
    assert [line for line in outcome.err.splitlines() if line] == [
        "removed: hello",
        "greedy decoding gives the same answer again; /set temperature 0.7 samples another",
        f"saved to {saved}",
        f"saved to {saved}",
        "the conversation is cleared",
        f"{tmp_path / 'notes.txt'} is put before your next turn (1 lines)",
        "the conversation is cleared",
        "the system prompt is set",
        "there is no system prompt any more",
        "removed: hello",
        "speculation is off",
        "max_tokens is 3",
        "greedy decoding gives the same answer again; /set temperature 0.7 samples another",
        "loaded 1 turn; the last was: hello",
        f"target  {target}",
        "draft   lookup (off)",
        "system  none",
        outcome.err.splitlines()[-2],
        "set     max_tokens 8, thinking on, markdown on",
    ]


def test_another_pair_goes_on_with_the_conversation_and_a_failure_keeps_the_old(
    target: Path, checkpoints: Any, tmp_path: Path
) -> None:
    other = checkpoints.target("qwen2")
    outcome = chat(
        target,
        "hello",
        "/model ./no-such-folder",
        "/draft ./no-such-folder",
        f"/model {other} none",
        "again",
        "/draft lookup",
        "/undo",
        "again",
        f"/save {tmp_path / 'chat'}",
    )
    first, second, third = outcome.out.splitlines(keepends=True)
    assert first == chat(target, "hello").out
    assert second == third
    assert outcome.err.count("there is no folder ./no-such-folder") == 2
    assert f"{other} continues the conversation" in outcome.err
    # Loaded where another pair is open, the chat goes on with its own.
    loaded = chat(target, f"/load {tmp_path / 'chat'}", "/undo", "again")
    assert loaded.out == third


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/sett", "no command /sett; did you mean '/set'?"),
        ("/set temprature 1", "there is no setting 'temprature'; did you mean 'temperature'?"),
        ("/set top_p 2", "top_p cannot be '2'; it takes 0 to 1, or auto"),
        ("/set temperature inf", "temperature cannot be 'inf'; it takes 0 (greedy) or more, or auto"),
        ("/set presence_penalty nan", "presence_penalty cannot be 'nan'; it takes a number, 0 for none, or auto"),
        ("/set seed 9223372036854775808", "seed cannot be '9223372036854775808'; it takes a whole number"),
        ("/set max_tokens 1e999", "max_tokens cannot be '1e999'; it takes 1 or more"),
        ("/set top_k", "top_k is auto; /set top_k takes a number of tokens, 0 for all, or auto"),
        ("/spec maybe", "/spec is 'on' or 'off', not 'maybe'"),
        ("/clear everything", "/clear takes no argument"),
        ("/file none.txt", "cannot read none.txt: No such file"),
        ("/load none.json", "cannot read none.json: No such file"),
        ("/save", "which file?"),
        ("/undo", "there is no turn yet"),
        ("/regen", "there is no turn yet"),
        ("/copy", "no answer yet"),
        ("/help undo", "/undo: remove the last turn"),
        ('"""never', '""" is never closed'),
    ],
)
def test_what_a_command_says(stub: Any, line: str, said: str) -> None:
    assert said in stub(line)


def test_every_command_is_listed_with_its_help(stub: Any) -> None:
    told = stub("/help")
    names = "help system set show model draft spec stats color regen undo edit file save load copy clear exit"
    for name in names.split():
        assert f"\n/{name}" in f"\n{told}"
    assert max(map(len, told.splitlines())) <= 80, "no word is broken at the margin"


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """The reply of a chat without a model to a line."""
    import sys

    from specgen.cli.chat.chat import Chat, Look
    from specgen.cli.chat.commands import run
    from specgen.cli.chat.input import reader
    from specgen.render.plain import Plain
    from specgen.session.conversation import Conversation
    from tests.cli.command import Stdin
    from tests.fakes import TableModel, fake_session

    monkeypatch.chdir(tmp_path)

    def told(line: str) -> str:
        monkeypatch.setattr(sys, "stdin", Stdin(line.encode()))
        conversation = Conversation(fake_session(TableModel(8), folder=tmp_path))
        chat = Chat(conversation, Look(), lambda _: Plain(sys.stdout, sys.stderr), lambda *_: None)  # type: ignore[arg-type,return-value]
        chat.loop(reader(dict), run)
        return str(capsys.readouterr().err)

    return told


def test_tab_completes_commands_what_they_take_and_files(tmp_path: Path) -> None:
    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document

    from specgen.cli.chat.commands import completions
    from specgen.cli.chat.line_editor import ChatCompleter

    (tmp_path / "notes.txt").touch()

    def complete(text: str) -> list[str]:
        found = ChatCompleter(completions).get_completions(Document(text), CompleteEvent())
        return [text[: len(text) + each.start_position] + each.text for each in found]

    assert complete("/s") == ["/system", "/set", "/show", "/spec", "/stats", "/save"]
    assert complete("/spec o") == ["/spec on", "/spec off"]
    assert "/set markdown off" in complete("/set mark")
    assert complete(f"/file {tmp_path}/no") == [f"/file {tmp_path}/notes.txt"]
    assert complete("hello /s") == []


READY = "\x1b[?2004h"


class Typist:
    """A user at a terminal in a chat with the stories model."""

    def __init__(self, *arguments: object, columns: int = 80, **environment: str) -> None:
        # Nobody answers when prompt_toolkit asks this terminal where its cursor is.
        self.child = terminal(
            "chat",
            "-m",
            "stories",
            "--seed",
            1,
            "-k",
            2,
            *arguments,
            columns=columns,
            PROMPT_TOOLKIT_NO_CPR="1",
            **environment,
        )
        self.sent = io.StringIO()
        self.child.logfile_read = self.sent
        self.columns = columns
        self.ready = READY

    def types(self, keys: str, until: str | None = None) -> None:
        self.child.send(keys)
        self.child.expect_exact(until or self.ready)

    def leaves(self) -> None:
        self.child.sendeof()
        self.child.expect(pexpect.EOF)
        self.child.wait()
        assert self.child.exitstatus == 0

    def rows(self) -> list[str]:
        screen = Screen(self.columns, 60)
        pyte.Stream(screen).feed(self.sent.getvalue())
        return screen.rows()


def test_on_a_terminal(tmp_path: Path) -> None:
    """Turns are typed, pasted and written in a block; an answer is interrupted; the next chat has the history."""
    saved = tmp_path / "chat.json"
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nprintf 'from the editor' > \"$1\"\n")
    editor.chmod(0o755)
    home = {"SPECGEN_DATA_DIR": str(tmp_path / "data"), "VISUAL": str(editor)}
    typist = Typist("-n", 12, **home)
    typist.child.expect_exact(READY)
    typist.types("Once upon a time\r")
    typist.types("\x1b[200~one\ntwo\x1b[201~\r")
    typist.types('"""three\rfour"""\r')
    typist.types("x\x07", until="from the editor")
    typist.types("\r")
    typist.types("/set max_tokens 400\r")
    typist.types("Long ago\r", until="tok/s")
    typist.types("\x03")
    typist.types(f"/save {saved}\r")
    typist.types("given up\x03")
    typist.types("\x03", until="Ctrl-C again leaves")
    typist.child.expect_exact(READY)
    typist.child.send("\x03")
    typist.child.expect(pexpect.EOF)
    typist.child.wait()
    assert typist.child.exitstatus == 0
    messages = json.loads(saved.read_text(encoding="utf-8"))["messages"]
    assert [message["content"] for message in messages[::2]] == [
        "Once upon a time",
        "one\ntwo",
        "three\nfour",
        "from the editor",
        "Long ago",
    ]
    shown = " ".join(" ".join(typist.rows()).split())
    for message in messages[1::2]:
        assert " ".join(message["content"].split()) in shown
    assert "interrupted" in shown
    history = tmp_path / "data" / "chat_history"
    assert history.stat().st_mode & 0o777 == 0o600
    typist = Typist("-n", 3, **home)
    typist.child.expect_exact(READY)
    typist.types("\x1b[A\x1b[A\r")
    assert "> /save" not in "\n".join(typist.rows()[-3:])
    typist.leaves()
    assert "> Long ago" in "\n".join(typist.rows())


def test_at_40_columns_and_through_a_resize_nothing_is_lost(tmp_path: Path) -> None:
    saved = tmp_path / "chat.json"
    typist = Typist("-n", 120, columns=40)
    typist.child.expect_exact(READY)
    typist.child.send("Once upon a time\r")
    typist.child.expect_exact("tok/s")
    typist.child.setwinsize(24, 60)
    typist.child.expect_exact(READY)
    typist.types(f"/save {saved}\r")
    typist.leaves()
    typist.columns = 60
    answer = json.loads(saved.read_text(encoding="utf-8"))["messages"][1]["content"]
    assert " ".join(answer.split()) in " ".join(" ".join(typist.rows()).split())


def test_on_a_dumb_terminal_there_are_no_escapes_in_an_answer(tmp_path: Path) -> None:
    saved = tmp_path / "chat.json"
    typist = Typist("-n", 12, TERM="dumb", NO_COLOR="1")
    typist.child.expect_exact("> ")
    typist.types("Once upon a time\r", until="stopped at")
    typist.types(f"/save {saved}\r", until="saved to")
    typist.leaves()
    answer = json.loads(saved.read_text(encoding="utf-8"))["messages"][1]["content"]
    assert answer in typist.sent.getvalue().replace("\r\n", "\n")
    assert "\x1b[1m" not in typist.sent.getvalue()


@pytest.mark.skipif(not shutil.which("bash"), reason="jobs need a shell")
def test_ctrl_z_and_keys_typed_ahead_leave_the_answer_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = tmp_path / "chat.json"
    monkeypatch.setenv("PS1", "$ ")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("CHAT", f"{sys.executable} -m specgen chat -m stories --seed 1 -n 250")
    monkeypatch.setenv("PROMPT_TOOLKIT_NO_CPR", "1")
    child = pexpect.spawn("bash", ["--norc", "--noediting", "-i"], dimensions=(60, 80), encoding="utf-8", timeout=60)
    child.logfile_read = io.StringIO()
    child.expect_exact("$ ")
    child.send("$CHAT\r")
    child.expect_exact(READY)
    child.send("Once upon a time\r")
    child.expect_exact("tok/s")
    child.send("\x1a")
    child.expect_exact("Stopped")
    child.expect_exact("$ ")
    child.send("fg\r")
    child.expect_exact("tok/s")
    child.send("typed ahead")
    child.expect_exact(READY)
    child.expect_exact("typed ahead")
    child.send(f"\x15/save {saved}\r")
    child.expect_exact(READY)
    child.sendeof()
    child.expect_exact("$ ")
    child.close(force=True)
    screen = Screen(80, 60)
    pyte.Stream(screen).feed(child.logfile_read.getvalue())
    rows = [row for row in screen.rows() if row]
    stopped = next(number for number, row in enumerate(rows) if "Stopped" in row)
    again = next(number for number, row in enumerate(rows) if row.endswith("$ fg"))
    answer = json.loads(saved.read_text(encoding="utf-8"))["messages"][1]["content"]
    before = rows[next(n for n, row in enumerate(rows) if row.startswith("> Once")) + 1 : stopped]
    end = next(number for number, row in enumerate(rows) if "250 tokens" in row)
    shown = " ".join(" ".join([*before, *rows[again + 2 : end]]).split())
    assert " ".join(answer.split()) in shown


@in_process
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
