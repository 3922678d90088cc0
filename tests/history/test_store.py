"""The history: storing, finding, deleting, damaged rows, and several processes."""

import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from specgen.core.errors import BadFile
from specgen.core.types import Message
from specgen.history import store as history
from specgen.history.store import History, flatten, with_turns

SETTINGS = {
    "target": {"id": "org/target", "revision": "abc"},
    "draft": None,
    "drafter": "lookup",
    "sampling": {"temperature": 0.0, "seed": 7},
    "device": "cpu",
    "dtype": "float32",
    "quant": "none",
    "num_draft_tokens": None,
}
STATS = {
    "drafted_tokens": 8,
    "accepted_tokens": 6,
    "generated_tokens": 10,
    "rounds": 4,
    "elapsed_s": 2.0,
    "tokens_per_second": 5.0,
    "acceptance_rate": 0.75,
    "mean_acceptance_length": 2.5,
    "speed_up": 1.5,
    "speed_up_is_estimate": False,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "history.db"


@pytest.fixture
def log(path: Path) -> Iterator[History]:
    with History(path) as opened:
        yield opened


def user(text: str) -> list[Message]:
    return [Message("user", text)]


def add(log: History, messages: Sequence[Message | int], output: str = "yes", **others: Any) -> int:
    values: dict[str, Any] = {"kind": "run", "reason": "end", "settings": SETTINGS, "stats": STATS} | others
    return log.add(messages=messages, output=output, **values)


def test_an_answer_is_kept_as_it_was(log: History) -> None:
    number = add(log, user("why?\n\0\ud800"), "é\n", template="t", raw=True, reason="length")
    answer = log.get(number)
    assert answer is not None
    assert (answer.kind, answer.template, answer.reason, answer.raw) == ("run", "t", "length", True)
    assert (answer.prompt, answer.output) == ("why?\n\0?", "é\n")  # a lone surrogate has no UTF-8
    assert (answer.settings, answer.stats) == (SETTINGS, STATS)
    assert answer.time.tzinfo is not None


def test_the_latest_come_first(log: History) -> None:
    first, second, third = (
        add(log, user(text), kind=kind) for text, kind in [("a", "run"), ("b", "chat"), ("c", "map")]
    )
    assert [answer.id for answer in log.answers()] == [third, second, first]
    assert [answer.id for answer in log.answers(2)] == [third, second]
    last = log.last("run", "chat")
    assert last is not None
    assert last.id == second


def test_a_conversation_is_stored_once_and_read_whole(log: History, path: Path) -> None:
    said: list[Message | int] = [Message("system", "be kind")]
    whole: list[Message] = [Message("system", "be kind")]
    for number in range(3):
        output = f"answer {number}" + 500 * "x"
        said.append(add(log, [*said, *user(f"more {number}")], output, kind="chat"))
        assert log.messages(number + 1) == [*whole, *user(f"more {number}")]
        whole += [*user(f"more {number}"), Message("assistant", output)]
    assert flatten(log.conversation(3)) == whole
    kept = sum(len(text) for (text,) in sqlite3.connect(path).execute("SELECT earlier || output FROM answers"))
    assert kept < 3 * 520 + 30


def test_a_turn_that_was_said_again_branches_off(log: History) -> None:
    add(log, user("one"), "first")
    add(log, user("one"), "second")
    number = add(log, [1, *user("two")])
    assert [message.content for message in log.messages(number)] == ["one", "first", "two"]


def test_messages_that_no_answer_holds_are_stored_once(log: History, path: Path) -> None:
    earlier = [*user("cut off\ud800"), Message("assistant", "here"), *user("and now?")]
    assert log.messages(add(log, earlier)) == [*user("cut off?"), *earlier[1:]]
    add(log, earlier)
    assert sqlite3.connect(path).execute("SELECT count(*) FROM messages").fetchone()[0] == 2


def test_known_turns_become_ids() -> None:
    turn = [*user("one"), Message("assistant", "first")]
    system = Message("system", "s")
    known = {("one", "first"): 7}

    def find(*texts: str) -> int | None:
        return known.get(texts)  # type: ignore[call-overload, no-any-return]

    assert with_turns([system, *turn, *user("one")], find) == [system, 7, *user("one")]
    assert with_turns([turn[1], turn[0], turn[0], turn[1]], find) == [turn[1], turn[0], 7]
    assert with_turns([], find) == []


def in_file(path: Path, text: bytes) -> bool:
    return any(text in file.read_bytes() for file in path.parent.iterdir())


def test_deleted_is_gone_from_the_file_and_the_conversation(log: History, path: Path) -> None:
    system = Message("system", "be kind")
    add(log, [system, *user("SECRET one" + 9000 * "x")], "first")
    last = add(log, [system, 1, *user("two")], "second")
    assert in_file(path, b"SECRET")
    assert log.delete([1, 99, 1 << 70]) == 1
    assert [message.content for message in log.messages(last)] == ["be kind", "two"]
    assert not list(log.search(["secret"]))
    assert not in_file(path, b"SECRET")
    assert add(log, [1, 2, *user("x")]) == 3  # no id is given twice
    assert [message.content for message in log.messages(3)] == ["two", "second", "x"]
    assert log.delete([2]) == 1
    assert not in_file(path, b"be kind"), "no answer has this system prompt any more"
    assert log.clear() == 1
    assert not list(log.answers())


def test_a_deletion_that_a_reader_holds_up_is_said_and_made_good(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specgen.history.store._BUSY_S", 0.01)
    with History(path) as log:
        add(log, user("SECRET"), "first")
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM answers").fetchone() == (1,)
    with History(path) as log, pytest.raises(BadFile, match="deleted 1 answer, but another program reads") as raised:
        log.delete([1])
    assert raised.value.hint == "close that program, then run: specgen log"
    assert in_file(path, b"SECRET")
    reader.close()
    with History(path) as log:
        assert not list(log.answers())
    assert not in_file(path, b"SECRET")


DAMAGE = {
    "settings": ["{", "[]", "[" * 100_000, "1e999", "null", b"\xff"],
    "stats": ["{}", "Infinity"],
    "time": ["yesterday", "2026-01-01", 5],
    "prompt": [b"\xff"],
    "kind": [b"run"],
}


@pytest.mark.parametrize(("column", "value"), [(name, each) for name, values in DAMAGE.items() for each in values])
def test_a_damaged_row_is_named_and_can_be_deleted(log: History, path: Path, column: str, value: object) -> None:
    add(log, user("a"))
    add(log, user("b"))
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE answers SET {column} = ? WHERE id = 1", (value,))
    database.close()
    for read in (log.samples, log.answers, lambda: log.search(["yes"]), lambda: log.get(1)):
        with pytest.raises(BadFile, match=rf"answer 1 in .*history\.db is damaged: see '{column}") as raised:
            list(read() or ())  # type: ignore[operator]
        assert raised.value.hint == "delete it: specgen log delete 1"
    assert log.drafted("org/target", "org/draft") == (0, 0, 0)
    assert log.has(1)
    assert log.delete([1]) == 1
    assert [answer.id for answer in log.answers()] == [2]


def test_a_damaged_conversation_is_named(log: History, path: Path) -> None:
    add(log, user("a"))
    with sqlite3.connect(path) as database:
        database.execute("UPDATE answers SET earlier = '[1, {}, \"x\", 99, -7]'")
    database.close()
    assert log.messages(add(log, user("b"))) == user("b")
    assert log.messages(1)[-1].content == "a"
    with sqlite3.connect(path) as database:
        database.execute("UPDATE answers SET earlier = 'x'")
    database.close()
    with pytest.raises(BadFile, match=r"answer 1 in .* is damaged: see 'earlier'"):
        log.messages(1)
    assert log.delete([1, 2]) == 2


def test_numbers_that_sqlite_cannot_hold_are_no_answers(log: History) -> None:
    add(log, user("a"))
    for id in (1 << 63, -(1 << 70), 10**30, 0, -1):  # noqa: A001
        assert log.get(id) is None
        assert not log.has(id)
        assert log.conversation(id) == []
    assert len(list(log.answers(10**30))) == 1


def test_a_number_that_json_does_not_have_is_not_written(log: History) -> None:
    with pytest.raises(ValueError, match="JSON"):
        add(log, user("a"), stats=STATS | {"elapsed_s": float("inf")})
    assert not list(log.answers())


def test_search_finds_pieces_of_text(log: History) -> None:
    add(log, user("How do I rebase?"), 'say "git rebase -i"')
    add(log, user("100% of a_b"), "merging")

    def found(*texts: str) -> list[int]:
        return [answer.id for answer in log.search(texts)]

    assert found("REBASE") == [1]
    assert found("base", "git") == [1]
    assert found("rebase", "merging") == []
    assert found('"git reb') == [1]
    assert found("0%") == found("a_b") == [2]
    assert found("%%") == found("a_c") == []
    assert found("e") == [2, 1]
    assert [answer.id for answer in log.search(["e"], 1)] == [2]
    add(log, user("STRASSE É"))
    assert found("straße é") == [3]


def test_only_the_user_may_read_it(log: History, path: Path) -> None:
    add(log, user("private"))
    files = list(path.parent.iterdir())
    assert {file.name for file in files} >= {"history.db", "history.db-wal"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_samples(log: History) -> None:
    add(log, user("a"), template="t")
    add(
        log,
        user("b"),
        settings=SETTINGS | {"draft": {"id": "org/draft", "revision": None}},
        stats=STATS | {"speed_up": None},
    )
    first, second = log.samples()
    assert (first.template, first.target, first.draft) == ("t", "org/target", "lookup")
    assert (first.drafted, first.accepted, first.generated, first.rounds, first.elapsed_s) == (8, 6, 10, 4, 2.0)
    assert (second.draft, first.speed_up, second.speed_up) == ("org/draft", 1.5, None)


def test_the_switch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPECGEN_DATA_DIR", str(tmp_path / "new"))
    assert history.logging_is_on()
    history.switch_logging(False)
    assert not history.logging_is_on()
    history.switch_logging(True)
    history.switch_logging(True)
    assert history.logging_is_on()


def test_a_file_of_another_version_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    before = path.read_bytes()
    with pytest.raises(sqlite3.DatabaseError, match="another version"):
        History(path)
    assert path.read_bytes() == before


# Several processes

WRITER = """
import signal
import sys
from pathlib import Path
from specgen.core.types import Message
from specgen.history.store import History
{body}
"""
ADD = (
    "log.add(kind='run', messages=[Message('user', 'x' * 20000)], output='y', reason='end', "
    f"settings={SETTINGS}, stats={STATS})"
)


def writer(path: Path, body: str) -> subprocess.Popen[str]:
    program = f"path = Path({str(path)!r})\n{body}"
    return subprocess.Popen([sys.executable, "-c", WRITER.format(body=program)], stdout=subprocess.PIPE, text=True)


def test_a_kill_while_writing_loses_nothing_that_was_written(path: Path) -> None:
    child = writer(path, f"log = History(path)\nwhile True:\n    print({ADD}, flush=True)")
    assert child.stdout
    try:
        seen = [int(child.stdout.readline()) for _ in range(25)]
    finally:
        child.kill()
    seen += [int(line) for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    with History(path) as log:
        kept = {answer.id for answer in log.answers()}
        assert kept >= set(seen)
        assert add(log, user("after")) == max(kept) + 1
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


def test_a_kill_inside_a_transaction_leaves_no_half_and_no_lock(path: Path) -> None:
    body = f"log = History(path)\n{ADD}\nwith log._writing():\n    log._db.execute('DELETE FROM answers')\n"
    child = writer(path, f"{body}    print('now', flush=True)\n    signal.pause()\n")
    assert child.stdout
    try:
        assert child.stdout.readline() == "now\n"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    with History(path) as log:
        assert len(list(log.answers())) == 1
        add(log, user("after"))


def test_who_comes_second_makes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with History(path) as log:
        add(log, user("first"))
    look = History._version
    seen = iter([0])  # it looked before the other had made the tables; it looks again when it may write
    monkeypatch.setattr(History, "_version", lambda log: next(seen, look(log)))
    with History(path) as log:
        assert len(list(log.answers())) == 1


def test_many_begin_the_file_and_write_at_once(path: Path) -> None:
    body = "print('ready', flush=True)\nsys.stdin.readline()\n"
    body += f"for _ in range(10):\n    with History(path) as log:\n        {ADD}"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER.format(body=f"path = Path({str(path)!r})\n{body}")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for child in children:
        assert child.stdout
        child.stdout.readline()
    for child in children:
        child.communicate("go\n", timeout=60)
    assert [child.returncode for child in children] == [0] * 4
    with History(path) as log:
        assert len(list(log.answers())) == 40
