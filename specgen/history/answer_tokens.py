"""The tokens of logged answers, kept beside them, so that a new answer can repeat what was said before."""

import contextlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from specgen.core.errors import SpecgenError
from specgen.history.store import VERSION, location, logging_is_on

# The trigger also serves older versions of specgen that delete answers: no token outlives its text.
_SCHEMA = """CREATE TABLE IF NOT EXISTS answer_tokens (
        answer INTEGER NOT NULL, model TEXT NOT NULL, ids BLOB NOT NULL);
    CREATE UNIQUE INDEX IF NOT EXISTS answer_tokens_by_model ON answer_tokens (model, answer);
    CREATE TRIGGER IF NOT EXISTS forget_answer_tokens AFTER DELETE ON answers BEGIN
        DELETE FROM answer_tokens WHERE answer = old.id; END;"""
# Most text that one refresh encodes, in characters: about 30 ms.
_BUDGET = 1 << 16
_MAX_ID = (1 << 63) - 1
_WAIT_S = 0.05  # for another writer; a later answer tries again
_Ids = npt.NDArray[np.int32]


class AnswerTokens:
    """The latest answers of the history as token ids of one tokenizer, at most `most` of them.

    `model` names the tokenizer. Ids of `vocab_size` or more are not used.
    """

    def __init__(self, model: str, encode: Callable[[str], Sequence[int]], vocab_size: int, most: int) -> None:
        self._model = model
        self._encode = encode
        self._vocab_size = vocab_size
        self._most = most
        self._known: set[int] = set()

    def refresh(self) -> tuple[bool, list[_Ids]]:
        """(anew, answers): the answers that are new since the last call, the earliest first.

        `anew`: forget the earlier ones, because some were deleted. Nothing is read while logging is off. A history
        that cannot be read has no answers.
        """
        try:
            if not logging_is_on() or not location().exists():
                return self._forget(), []
            with contextlib.closing(_connect(location())) as db:
                return self._read(db)
        except (sqlite3.Error, OSError):
            return self._forget(), []

    def _forget(self) -> bool:
        self._known = set()
        return True

    def _read(self, db: sqlite3.Connection) -> tuple[bool, list[_Ids]]:
        rows = db.execute("SELECT answer, length(ids) / 4 FROM answer_tokens WHERE model = ?", (self._model,))
        stored: dict[int, int] = dict(rows.fetchall())
        anew = not self._known <= stored.keys()
        if anew:
            self._forget()
        stored |= self._store_new(db, stored)
        self._drop_oldest(db, stored)
        new = sorted(stored.keys() - self._known)
        self._known |= stored.keys()
        query = "SELECT ids FROM answer_tokens WHERE model = ? AND answer = ?"
        blobs = (db.execute(query, (self._model, answer)).fetchone() for answer in new)
        return anew, [np.frombuffer(blob[0], dtype="<i4").astype(np.int32) for blob in blobs if blob]

    def _store_new(self, db: sqlite3.Connection, stored: Mapping[int, int]) -> dict[int, int]:
        """Encode answers that have no tokens yet, within the budget. Returns their ids with their numbers of tokens.

        Newer answers come before older ones. The stored answers stay contiguous, so that no call scans the history.
        """
        ranges = [("id > ? ORDER BY id", max(stored))] if stored else []
        if sum(stored.values()) < self._most // 2:
            ranges.append(("id < ? ORDER BY id DESC", min(stored, default=_MAX_ID)))
        budget = _BUDGET
        new: dict[int, _Ids] = {}
        for condition, bound in ranges:
            for answer, text in db.execute(f"SELECT id, output FROM answers WHERE {condition}", (bound,)):  # noqa: S608
                budget -= len(str(text))
                if budget < 0 and new:
                    break
                new[answer] = self._encoded(str(text))
        with db:
            # An answer may have been deleted by now.
            db.executemany(
                "INSERT OR IGNORE INTO answer_tokens SELECT ?1, ?2, ?3 WHERE ?1 IN (SELECT id FROM answers)",
                [(answer, self._model, ids.tobytes()) for answer, ids in new.items()],
            )
        return {answer: len(ids) for answer, ids in new.items()}

    def _encoded(self, text: str) -> _Ids:
        try:
            ids = list(self._encode(text))
        except SpecgenError:
            ids = []
        return np.array(ids if max(ids, default=0) < self._vocab_size else [], dtype="<i4")

    def _drop_oldest(self, db: sqlite3.Connection, stored: dict[int, int]) -> None:
        """Delete the tokens of the oldest answers beyond the bound."""
        total, dropped = sum(stored.values()), 0
        for answer in sorted(stored):
            if total <= self._most:
                break
            total -= stored.pop(answer)
            dropped = answer
        if dropped:
            with db:
                db.execute("DELETE FROM answer_tokens WHERE model = ? AND answer <= ?", (self._model, dropped))
            self._known = {each for each in self._known if each > dropped}


def _connect(path: Path) -> sqlite3.Connection:
    """The history at `path`, with the table of tokens. Raises sqlite3.Error for another version of the file."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_WAIT_S)
    try:
        if db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            raise sqlite3.DatabaseError("another version")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA secure_delete = ON")
        db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db
