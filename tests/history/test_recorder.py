"""The recorder: how it stores conversations, and a history that cannot be written."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from specgen.core.events import Event, Finished, Span, Stats, Step
from specgen.core.types import Message
from specgen.history.recorder import Recorder
from specgen.history.store import History, flatten, location
from tests.render.samples import STARTED

SYSTEM = Message("system", "be kind")


class Silent:
    def show(self, event: Event) -> None: ...

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECGEN_DATA_DIR", str(tmp_path))


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder("chat", print, on=True) as made:
        yield made


def turn(recorder: Recorder, messages: Sequence[Message], thought: str, answer: str) -> list[Message]:
    """Show the answer to `messages`; return the conversation as a chat keeps it, thinking included."""
    renderer = recorder.along(Silent())
    renderer.show(replace(STARTED, messages=tuple(messages)))
    renderer.show(Step((1,), (Span(thought, "bonus", "thinking"), Span(answer, "bonus"))))
    renderer.show(Finished("end", answer, Stats(rounds=1)))
    renderer.close()
    return [*messages, Message("assistant", thought + answer)]


def said(number: int) -> list[str]:
    with History(location()) as log:
        return [message.content for message in flatten(log.conversation(number))]


def stored(text: str) -> int:
    """Number of occurrences of `text` in the database."""
    with History(location()) as log:
        log._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return location().read_bytes().count(text.encode())


def test_each_text_of_a_thinking_chat_is_stored_once(recorder: Recorder) -> None:
    chat = turn(recorder, [SYSTEM, Message("user", "ONE")], "<think>hm</think>", "FIRST")
    chat = turn(recorder, [*chat, Message("user", "TWO")], "<think>well</think>", "SECOND")
    # The system prompt changes, and the oldest turn no longer fits the context.
    turn(recorder, [Message("system", "be brief"), *chat[3:], Message("user", "THREE")], "", "THIRD")
    assert said(2) == ["be kind", "ONE", "FIRST", "TWO", "SECOND"]
    assert said(3) == ["be brief", "TWO", "SECOND", "THREE", "THIRD"]
    assert [stored(text) for text in ("ONE", "FIRST", "TWO", "SECOND", "be kind")] == [1] * 5
    assert stored("hm") == 0


def test_a_turn_that_was_deleted_meanwhile_does_not_come_back(recorder: Recorder) -> None:
    chat = turn(recorder, [Message("user", "ONE")], "", "FIRST")
    chat = turn(recorder, [*chat, Message("user", "TWO")], "", "SECOND")
    with History(location()) as log:
        log.delete([2])
    turn(recorder, [*chat, Message("user", "THREE")], "", "THIRD")
    assert said(3) == ["ONE", "FIRST", "THREE", "THIRD"]
    assert stored("SECOND") == stored("TWO") == 0


def test_a_continued_conversation_is_known(recorder: Recorder) -> None:
    chat = turn(recorder, [SYSTEM, Message("user", "ONE")], "", "FIRST")
    with History(location()) as log, Recorder("run", print, on=True) as later:
        later.know(log.conversation(1))
        turn(later, [*chat, Message("user", "TWO")], "", "SECOND")
    assert said(2) == ["be kind", "ONE", "FIRST", "TWO", "SECOND"]
    assert stored("ONE") == 1


def test_a_history_that_cannot_be_written_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    location().write_bytes(b"no database" * 1000)
    with Recorder("chat", print, on=True) as recorder:
        for _ in range(2):
            turn(recorder, [Message("user", "x")], "", "y")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("this answer is not in the history: ")
    assert line.endswith("file is not a database; --no-log skips it")
