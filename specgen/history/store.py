"""What was asked and answered on this machine: one row an answer, in an SQLite file of the user's data folder.

The file is in WAL mode: readers and a writer do not wait for each other, writers wait for one another a moment, and a
process that dies while it writes leaves every earlier answer and nothing of its own. Only the user may read it.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from specgen.core.files import data_folder
from specgen.core.types import Message

Kind = Literal["run", "chat", "map"]

_BUSY_S = 2.0  # how long to wait for another writer, who needs milliseconds
_VERSION = 1
_SCHEMA = (
    # `follows` is the answer whose conversation this one goes on; `earlier` the messages before the prompt that no
    # other row holds, as JSON; `chain` a digest of the conversation so far, by which the next turn finds this one.
    # An id is never given twice.
    """CREATE TABLE answers (
        id INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, kind TEXT NOT NULL, template TEXT,
        reason TEXT NOT NULL, raw INTEGER NOT NULL, follows INTEGER, earlier TEXT NOT NULL, prompt TEXT NOT NULL,
        output TEXT NOT NULL, settings TEXT NOT NULL, stats TEXT NOT NULL, chain TEXT NOT NULL)""",
    "CREATE INDEX chains ON answers (chain)",
    "CREATE INDEX followers ON answers (follows)",
)
_COLUMNS = "id, time, kind, template, reason, raw, prompt, output, settings, stats"
_CONVERSATION = """WITH RECURSIVE turns (id, follows, earlier, prompt, output, back) AS (
    SELECT id, follows, earlier, prompt, output, 0 FROM answers WHERE id = ?
    UNION ALL SELECT a.id, a.follows, a.earlier, a.prompt, a.output, back + 1 FROM answers a JOIN turns
    ON a.id = turns.follows) SELECT earlier, prompt, output FROM turns ORDER BY back DESC"""
_DRAFTED = """SELECT count(*), coalesce(sum(drafted), 0), coalesce(sum(accepted), 0) FROM (
    SELECT json_extract(stats, '$.by_source.draft.drafted') AS drafted,
    json_extract(stats, '$.by_source.draft.accepted') AS accepted FROM answers
    WHERE json_extract(settings, '$.target.id') = ? AND json_extract(settings, '$.draft.id') = ?) WHERE drafted > 0"""
_FIGURES = """template, json_extract(settings, '$.target.id'),
    coalesce(json_extract(settings, '$.draft.id'), json_extract(settings, '$.drafter')),
    json_extract(stats, '$.drafted_tokens'), json_extract(stats, '$.accepted_tokens'),
    json_extract(stats, '$.generated_tokens'), json_extract(stats, '$.rounds'),
    json_extract(stats, '$.elapsed_s'), json_extract(stats, '$.speed_up')"""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is logged. `prompt` is the last message that was answered, see History.messages for the others.

    `settings` are the models, the sampling and the other fields of `Started`; `stats` are those that JSON lines have.
    `raw` says that the prompt was continued as it is. `reason` is that of `Finished`, or failed.
    """

    id: int
    time: datetime
    kind: Kind
    template: str | None
    reason: str
    raw: bool
    prompt: str
    output: str
    settings: Mapping[str, Any]
    stats: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """An answer in figures. `draft` is the draft model, or else the drafter; tokens are counted, times in seconds."""

    time: datetime
    template: str | None
    target: str
    draft: str
    drafted: int
    accepted: int
    generated: int
    rounds: int
    elapsed_s: float
    speed_up: float | None


def location() -> Path:
    """The file, whether or not it exists."""
    return data_folder() / "history.db"


def logging_is_on() -> bool:
    return not _switch().exists()


def switch_logging(on: bool) -> None:
    """Log answers from now on, or no longer; what is logged stays. Raises OSError."""
    if on:
        _switch().unlink(missing_ok=True)
    else:
        data_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        _switch().touch()


def _switch() -> Path:
    return data_folder() / "history.off"


class History:
    """The answers so far. Opens the file, or makes it; every method raises sqlite3.Error or OSError."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # SQLite gives its other files the mode of this one
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
        try:
            self._db.row_factory = sqlite3.Row
            self._db.create_function("has", 2, _has, deterministic=True)
            self._make()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def add(
        self,
        *,
        kind: Kind,
        messages: Sequence[Message],
        output: str,
        reason: str,
        settings: Mapping[str, Any],
        stats: Mapping[str, Any],
        template: str | None = None,
        raw: bool = False,
    ) -> int:
        """Log an answer to `messages`, of which there is one at least; gives its id.

        Messages that an earlier answer holds already are not stored again: the new one follows that one.
        """
        *earlier, prompt = [Message(message.role, _storable(message.content)) for message in messages]
        said = Message("assistant", _storable(output))
        with self._writing():
            last = self._db.execute("SELECT max(id) FROM answers WHERE chain = ?", (_chain(earlier),)).fetchone()[0]
            row = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "kind": kind,
                "template": template,
                "reason": reason,
                "raw": raw,
                "follows": last,
                "earlier": _as_json(earlier if last is None else []),
                "prompt": prompt.content,
                "output": said.content,
                "settings": json.dumps(settings),
                "stats": json.dumps(stats),
                "chain": _chain([*earlier, prompt, said]),
            }
            names, places = ", ".join(row), ", ".join("?" * len(row))
            done = self._db.execute(f"INSERT INTO answers ({names}) VALUES ({places})", tuple(row.values()))  # noqa: S608
        assert done.lastrowid is not None  # noqa: S101
        return done.lastrowid

    def get(self, id: int) -> Answer | None:  # noqa: A002
        return next(self._answers("WHERE id = ?", id), None)

    def last(self, *kinds: Kind) -> Answer | None:
        """The latest answer of these kinds, of any kind where none is named."""
        wanted = f"WHERE kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
        return next(self._answers(f"{wanted} ORDER BY id DESC LIMIT 1", *kinds), None)

    def answers(self, limit: int | None = None) -> Iterator[Answer]:
        """The latest first, `limit` at most."""
        return self._answers("ORDER BY id DESC LIMIT ?", -1 if limit is None else limit)

    def search(self, texts: Sequence[str], limit: int | None = None) -> Iterator[Answer]:
        """The answers in which each of `texts` occurs, in prompt or output, in any case of letters; the latest first.

        Every row is read: ten thousand of 2 KB take 0.1 s, and SQLite's own index for pieces of text takes seconds to
        build, doubles the file, and keeps what was deleted.
        """
        condition = " AND ".join(["(has(prompt, ?) OR has(output, ?))"] * len(texts))
        wanted = [text.casefold() for text in texts for _ in range(2)]
        return self._answers(f"WHERE {condition} ORDER BY id DESC LIMIT ?", *wanted, -1 if limit is None else limit)

    def messages(self, id: int) -> list[Message]:  # noqa: A002
        """The messages that answer `id` answered, from the first of its conversation on."""
        messages: list[Message] = []
        for earlier, prompt, output in self._db.execute(_CONVERSATION, (id,)):
            messages += [Message(role, content) for role, content in json.loads(earlier)]
            messages += [Message("user", prompt), Message("assistant", output)]
        return messages[:-1]

    def samples(self) -> Iterator[Sample]:
        """The figures of every answer, the earliest first."""
        for time, *others in self._db.execute(f"SELECT time, {_FIGURES} FROM answers ORDER BY id"):  # noqa: S608
            yield Sample(datetime.fromisoformat(time), *others)

    def drafted(self, target: str, draft: str) -> tuple[int, int, int]:
        """The answers of `target` in which the model `draft` drafted, how many tokens it drafted, and how many of them
        were accepted."""
        answers, drafted, accepted = self._db.execute(_DRAFTED, (target, draft)).fetchone()
        return answers, drafted, accepted

    def delete(self, ids: Sequence[int]) -> int:
        """Take answers out of the history, and out of the conversations that went on; gives how many there were."""
        with self._writing():
            deleted = sum(self._delete(each) for each in ids)
        self._shrink()
        return deleted

    def clear(self) -> int:
        """Delete every answer; gives how many there were."""
        with self._writing():
            deleted = self._db.execute("DELETE FROM answers").rowcount
        self._shrink()
        return deleted

    def _delete(self, id: int) -> int:  # noqa: A002
        row = self._db.execute("SELECT follows, earlier FROM answers WHERE id = ?", (id,)).fetchone()
        if row is None:
            return 0
        self._db.execute("UPDATE answers SET follows = ?, earlier = ? WHERE follows = ?", (*row, id))
        return self._db.execute("DELETE FROM answers WHERE id = ?", (id,)).rowcount

    def _shrink(self) -> None:
        """Write the file anew, so that nothing of what was deleted stays in it."""
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _answers(self, condition: str, *values: object) -> Iterator[Answer]:
        for row in self._db.execute(f"SELECT {_COLUMNS} FROM answers {condition}", values):  # noqa: S608
            fields = dict(row)
            fields["time"] = datetime.fromisoformat(fields["time"])
            fields["raw"] = bool(fields["raw"])
            fields |= {name: json.loads(fields[name]) for name in ("settings", "stats")}
            yield Answer(**fields)

    def _make(self) -> None:
        """The tables, if this is the first one here."""
        if self._version() == 0:
            self._db.execute("PRAGMA journal_mode = WAL")
            with self._writing():
                if self._version() == 0:  # nobody was faster
                    for statement in _SCHEMA:
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {_VERSION}")
        if self._version() != _VERSION:
            raise sqlite3.DatabaseError("it was written by a newer specgen")
        self._db.execute("PRAGMA synchronous = NORMAL")  # in WAL mode a crash of the process loses nothing

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _has(text: str, wanted: str) -> bool:
    return wanted in text.casefold()


def _storable(text: str) -> str:
    """`text` without lone surrogates, which have no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _as_json(messages: Sequence[Message]) -> str:
    return json.dumps([(message.role, message.content) for message in messages])


def _chain(messages: Sequence[Message]) -> str:
    return hashlib.sha256(_as_json(messages).encode()).hexdigest()
