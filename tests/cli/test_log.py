"""specgen log, stats and templates, with stdout and stderr apart."""

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pexpect
import pytest

from specgen.core.types import Message
from specgen.history.store import History, location, switch_logging
from tests.cli.command import Outcome, invoke, terminal

SETTINGS = {
    "target": {"id": "org/big", "revision": "0123456789abcdef"},
    "draft": {"id": "org/small", "revision": None},
    "drafter": "hybrid",
    "device": "cpu",
    "dtype": "float32",
    "quant": "int8",
    "sampling": {"temperature": 0.7, "seed": 123},
    "num_draft_tokens": None,
}
STATS = {
    "generated_tokens": 100,
    "rounds": 40,
    "drafted_tokens": 80,
    "accepted_tokens": 60,
    "acceptance_rate": 0.75,
    "mean_acceptance_length": 2.5,
    "tokens_per_second": 20.0,
    "elapsed_s": 5.0,
    "speed_up": 1.5,
    "speed_up_is_estimate": False,
}


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A history and templates of this test alone."""
    monkeypatch.setenv("SPECGEN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SPECGEN_CONFIG_DIR", str(tmp_path / "config"))
    return tmp_path


def add(*messages: str, output: str = "yes", **others: Any) -> int:
    values: dict[str, Any] = {"kind": "run", "reason": "end", "settings": SETTINGS, "stats": STATS} | others
    roles = ["user" if number % 2 == 0 else "assistant" for number in range(len(messages))]
    said = [Message(role, text) for role, text in zip(roles, messages, strict=True)]
    with History(location()) as log:
        return log.add(messages=said, output=output, **values)


def table(outcome: Outcome) -> list[list[str]]:
    assert outcome.code == 0
    return [line.split() for line in outcome.text.splitlines()]


def failure(outcome: Outcome) -> str:
    assert outcome.out == b""
    assert outcome.err.count("\n") == 1
    return outcome.err


# log


@pytest.mark.parametrize("id", [99, 10**30])
def test_an_id_of_any_size_that_is_no_answer(id: int) -> None:  # noqa: A002
    add("why?")
    for arguments in (("show", id), ("delete", 1, id, "--yes")):
        outcome = invoke("log", *arguments)
        assert outcome.code == 2
        assert f"there is no answer {id}" in failure(outcome)
    assert len(table(invoke("log", "--limit", 10**30))) == 2


def test_a_damaged_row_is_named_and_can_be_deleted() -> None:
    add("why?")
    add("how?")
    with sqlite3.connect(location()) as database:
        database.execute("UPDATE answers SET stats = replace(stats, '1.5', 'Infinity') WHERE id = 1")
    database.close()
    for arguments in (("log",), ("log", "show", 1), ("stats",), ("log", "search", "why")):
        outcome = invoke(*arguments)
        assert outcome.code == 10
        assert "answer 1 in " in failure(outcome)
        assert "is damaged: see 'stats.speed_up'; delete it: specgen log delete 1" in outcome.err
    assert invoke("log", "delete", 1, "--yes").code == 0
    assert invoke("stats").code == 0


TYPED = """
# 2026-11-28 03:00:00.000000
+SECRET

# 2026-11-28 03:00:01.000000
+\"\"\"
+two

+lines\"\"\"

# 2026-11-28 03:00:02.000000
+//slash
+and\u2028SECRET

# 2026-11-28 03:00:03.000000
+/set seed 1
"""


def test_typed_lines_go_with_their_answers(data: Path) -> None:
    add("SECRET")
    add("a file\n\ntwo\n\nlines")
    add("/slash\nand\u2028SECRET")
    add("another")
    file = data / "data" / "chat_history"
    file.write_text(TYPED.replace("\n\n+lines", "\n+\n+lines"), encoding="utf-8")
    assert invoke("log", "delete", 1, "--yes").code == 0
    assert file.read_text(encoding="utf-8").count("# 2026") == 3
    assert invoke("log", "delete", 2, 3, "--yes").code == 0
    assert file.read_text(encoding="utf-8") == "\n# 2026-11-28 03:00:03.000000\n+/set seed 1\n"
    assert invoke("log", "delete", "--all", "--yes").code == 0
    assert not file.exists()


def test_a_deletion_that_another_program_holds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specgen.history.store._BUSY_S", 0.01)
    add("SECRET")
    reader = sqlite3.connect(location(), isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM answers").fetchall()
    outcome = invoke("log", "delete", 1, "--yes")
    reader.close()
    assert outcome.code == 10
    assert "deleted 1 answer, but another program reads " in failure(outcome)
    assert invoke("log").code == 0
    assert not any(b"SECRET" in file.read_bytes() for file in location().parent.iterdir())


def test_the_latest_are_listed() -> None:
    add("\n  why?\nbecause", template="ask")
    for number in range(30):
        add(f"prompt {number}")
    rows = table(invoke("log"))
    assert rows[0] == ["ID", "TIME", "KIND", "TARGET", "PROMPT"]
    assert len(rows) == 21
    assert (rows[1][0], rows[1][-2:]) == ("31", ["prompt", "29"])
    assert table(invoke("log", "list", "-n", 2)) == table(invoke("log", "-n", 2)) == rows[:3]
    assert table(invoke("log", "-n", 0))[-1][3:] == ["run", "-t", "ask", "big", "why?"]


def test_a_list_in_json() -> None:
    add("why?", output="é")
    (answer,) = json.loads(invoke("log", "--json").text)
    assert (answer["id"], answer["prompt"], answer["output"]) == (1, "why?", "é")
    assert (answer["settings"], answer["stats"]) == (SETTINGS, STATS)
    assert json.loads(invoke("log", "search", "zzz", "--json").text) == []


def test_an_empty_history_is_no_failure() -> None:
    outcome = invoke("log")
    assert (outcome.code, outcome.out, outcome.err) == (0, b"", "specgen: the history is empty\n")
    assert invoke("log", "--json").text == "[]\n"
    assert "the history is empty" in failure(invoke("log", "show"))


def test_search() -> None:
    add("a merge conflict")
    add("hello", output="Merge it")
    assert [row[0] for row in table(invoke("log", "search", "MERGE"))[1:]] == ["2", "1"]
    assert [row[0] for row in table(invoke("log", "search", "merge", "conflict"))[1:]] == ["1"]
    assert failure(invoke("log", "search", "rebase")) == "specgen: no answer contains that\n"


def test_show() -> None:
    add("one", output="first")
    add("one", "first", "two", output="second\n\x1b[31m", kind="chat")
    text = invoke("log", "show", 2).text
    for words in ("one", "first", "two", "second", "org/big@0123456789abcdef", "org/small", "seed 123", "int8", "75 %"):
        assert words in text
    assert invoke("log", "show", "--text").out == b"second\n\x1b[31m"
    shown = json.loads(invoke("log", "show", "--json").text)
    assert [message["content"] for message in shown["messages"]] == ["one", "first", "two"]
    assert shown["output"] == "second\n\x1b[31m"
    assert "no answer 3" in failure(invoke("log", "show", 3))


def test_delete() -> None:
    for number in range(4):
        add(f"prompt {number}")
    assert "needs a yes" in failure(invoke("log", "delete", 2, stdin=b""))
    assert "give the IDs" in failure(invoke("log", "delete"))
    assert "give the IDs" in failure(invoke("log", "delete", 1, "--all", "-y"))
    assert "no answer 9" in failure(invoke("log", "delete", 1, 9, "-y"))
    assert len(table(invoke("log"))) == 5
    assert invoke("log", "delete", 2, 2, 3, "-y").text == "deleted 2 answers\n"
    assert [row[0] for row in table(invoke("log"))[1:]] == ["4", "1"]
    assert json.loads(invoke("log", "delete", "--all", "-y", "--json").text) == {"deleted": 2}
    assert invoke("log").out == b""


def test_on_a_terminal_it_asks_and_fits_and_cannot_be_driven() -> None:
    add("x" * 200 + "\x1b]0;owned\x07", output="say \x1b[31m")
    child = terminal("log", columns=50)
    child.expect(pexpect.EOF)
    assert all(len(line) <= 50 for line in child.before.splitlines())
    assert "…" in child.before
    child = terminal("log", "show")
    child.expect(pexpect.EOF)
    assert "\x1b" not in child.before
    assert "owned" in child.before
    for answer, code in (("n", 1), ("y", 0)):
        child = terminal("log", "delete", "--all")
        child.expect_exact("Delete all answers? [y/N] ")
        child.sendline(answer)
        child.expect(pexpect.EOF)
        child.wait()
        assert child.exitstatus == code
    assert invoke("log").out == b""


def test_off_and_on(data: Path) -> None:
    add("hello")
    assert invoke("log", "off").code == 0
    assert "not logged" in invoke("log").err
    assert json.loads(invoke("log", "path", "--json").text) == {
        "path": str(location()),
        "exists": True,
        "logging": False,
    }
    assert invoke("log", "on").code == 0
    assert invoke("log").err == ""
    assert invoke("log", "path").text == f"{data}/data/history.db\n"
    switch_logging(True)


@pytest.mark.parametrize("command", [["log"], ["log", "search", "x"], ["log", "show"], ["stats"]])
def test_a_broken_history_is_a_bad_file(command: Sequence[str]) -> None:
    location().parent.mkdir()
    location().write_bytes(b"no database, " * 999)
    outcome = invoke(*command)
    assert outcome.code == 10
    assert "move the file away" in failure(outcome)


# stats


def test_stats() -> None:
    for number in range(45):
        accepted = 70 if number < 25 else 20
        add("x", stats=STATS | {"accepted_tokens": accepted + number % 3}, template="ask" if number % 2 else None)
    outcome = invoke("stats")
    lines = outcome.text.splitlines()
    assert lines[0].split() == ["ANSWERS", "TOKENS", "ACCEPTANCE", "LENGTH", "SPEED-UP", "WEEKS", "PAIR"]
    figures, week, name = lines[1].rsplit("  ", 2)
    assert figures.split() == ["45", "4500", "61", "%", "2.5", "1.5x"]
    assert (week, name) == ("...........▅", "org/big + org/small")
    assert lines[4].endswith("  ask")
    (notice,) = [line for line in lines if "drifted down" in line]
    assert notice.startswith("org/big + org/small: ")
    assert "from 89 % to 26 %" in notice
    data = json.loads(invoke("stats", "--json").text)
    assert (data["pairs"][0]["target"], data["pairs"][0]["draft"]) == ("org/big", "org/small")
    assert data["pairs"][0]["drift"]["answers"] == 20
    assert data["templates"][0]["template"] == "ask"
    assert data["templates"][0]["drift"] is None
    assert len(data["pairs"][0]["weeks"]) == 12
    assert "per_million" not in data["pairs"][0]


def test_stats_with_costs() -> None:
    add("x", stats=STATS)
    outcome = invoke("stats", "--cost", "--price-per-hour", 2)
    head, costs = outcome.text.splitlines()[-2:]
    assert head.split() == ["A", "MILLION", "TOKENS", "WITHOUT", "MONEY", "WITHOUT", "PAIR"]
    hours, unit, without, *_ = costs.split()
    assert unit == "h"
    assert float(without.removeprefix("~")) == pytest.approx(1.5 * float(hours), rel=0.01)
    (pair,) = json.loads(invoke("stats", "--cost", "--price-per-hour", 2, "--json").text)["pairs"]
    assert pair["per_million"]["with"]["money"] == pytest.approx(2 * pair["per_million"]["with"]["hours"])
    assert failure(invoke("stats", "--price-per-hour", 2)) == "specgen: a price has no effect by itself; add --cost\n"


def test_stats_of_nothing() -> None:
    assert failure(invoke("stats")) == "specgen: the history is empty\n"
    assert json.loads(invoke("stats", "--json").text) == {"pairs": [], "templates": []}


# templates


def test_templates(data: Path) -> None:
    folder = data / "config" / "templates"
    assert "there are no templates" in failure(invoke("templates"))
    folder.mkdir(parents=True)
    (folder / "ask.toml").write_text('prompt = """Explain {input}\nin {lang}"""\n[options]\ntemp = 0\n')
    (folder / "broken.toml").write_text("prompt = ")
    rows = invoke("templates").text.splitlines()
    assert rows[0] == "ask     Explain {input}"
    assert rows[1].startswith("broken  cannot read")
    assert invoke("templates", "list").text.splitlines() == rows
    ask, broken = json.loads(invoke("templates", "--json").text)
    assert (ask["name"], ask["options"]) == ("ask", {"temp": 0})
    assert "cannot read" in broken["error"]
    shown = invoke("templates", "show", "ask")
    assert shown.text == (folder / "ask.toml").read_text()
    assert shown.err == "specgen: variables: input, lang\n"
    assert json.loads(invoke("templates", "show", "ask", "--json").text)["variables"] == ["input", "lang"]
    assert invoke("templates", "path").text == f"{folder}\n"
    assert invoke("templates", "path", "ask").text == f"{folder}/ask.toml\n"
    assert "did you mean 'ask'?" in failure(invoke("templates", "show", "aks"))
