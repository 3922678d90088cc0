"""The tokens of logged answers: what is read, what is forgotten, and the bounds."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from specgen.core.types import Message
from specgen.history import answer_tokens
from specgen.history.answer_tokens import AnswerTokens
from specgen.history.store import History, location, switch_logging


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECGEN_DATA_DIR", str(tmp_path))


def log(*outputs: str) -> list[int]:
    with History(location()) as history:
        return [
            history.add(kind="run", messages=[Message("user", "q")], output=output, reason="end", settings={}, stats={})
            for output in outputs
        ]


def reader(most: int = 1000, vocab_size: int = 1000, model: str = "m") -> AnswerTokens:
    return AnswerTokens(model, lambda text: [ord(each) for each in text], vocab_size, most)


def texts(answers: Sequence[np.ndarray]) -> list[str]:
    return ["".join(map(chr, answer)) for answer in answers]


def read(tokens: AnswerTokens) -> tuple[bool, list[str]]:
    anew, answers = tokens.refresh()
    return anew, texts(answers)


def test_new_answers_come_once_the_earliest_first() -> None:
    tokens = reader()
    assert read(tokens) == (True, []), "there is no history, and none is made"
    assert not location().exists()
    log("one", "two")
    assert read(tokens) == (False, ["one", "two"])
    log("three")
    assert read(tokens) == (False, ["three"])
    assert read(tokens) == (False, [])
    assert read(reader()) == (False, ["one", "two", "three"])


def test_the_tokens_are_stored_and_not_encoded_again() -> None:
    log("one")
    read(reader())
    stored = AnswerTokens("m", lambda _: pytest.fail("encoded twice"), 1000, 1000)
    assert read(stored) == (False, ["one"])
    other = AnswerTokens("another", lambda _: [7], 1000, 1000)
    assert [list(answer) for answer in other.refresh()[1]] == [[7]], "another tokenizer has other tokens"


def test_a_deleted_answer_is_forgotten_and_its_tokens_leave_the_file() -> None:
    first, _ = log("SECRET", "two")
    tokens = reader()
    read(tokens)
    secret = np.array([ord(each) for each in "SECRET"], dtype="<i4").tobytes()
    with History(location()) as history:
        history._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert secret in location().read_bytes()
        history.delete([first])
    assert secret not in location().read_bytes()
    assert read(tokens) == (True, ["two"])
    with History(location()) as history:
        history.clear()
    assert read(tokens) == (True, [])


def test_nothing_is_read_while_logging_is_off() -> None:
    log("one")
    tokens = reader()
    switch_logging(False)
    assert read(tokens) == (True, [])
    switch_logging(True)
    assert read(tokens) == (False, ["one"])


def test_the_latest_answers_within_the_bound_are_kept() -> None:
    log("a" * 40, "b" * 40, "c" * 40)
    tokens = reader(most=100)
    assert read(tokens) == (False, ["b" * 40, "c" * 40])
    log("d" * 40)
    assert read(tokens) == (False, ["d" * 40])
    assert read(reader(most=100)) == (False, ["c" * 40, "d" * 40])
    with sqlite3.connect(location()) as db:
        assert db.execute("SELECT count(*) FROM answer_tokens").fetchone() == (2,)


def test_a_long_history_is_encoded_over_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_tokens, "_BUDGET", 25)
    log(*(letter * 10 for letter in "abcde"))
    tokens = reader()
    assert read(tokens) == (False, ["d" * 10, "e" * 10])
    log("f" * 10)
    assert read(tokens) == (False, ["c" * 10, "f" * 10])
    assert read(tokens) == (False, ["a" * 10, "b" * 10])


def test_ids_beyond_the_vocabulary_and_damaged_histories_are_not_used() -> None:
    log("fine", "\u0800")
    assert read(reader(vocab_size=200)) == (False, ["fine", ""])
    location().write_bytes(b"not a database" * 100)
    assert read(reader()) == (True, [])
