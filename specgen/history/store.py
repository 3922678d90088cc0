"""The history of answers: one row per answer in an SQLite file that only the user can read.

The file is in WAL mode. Readers and a writer do not wait for each other; a writer waits briefly for another one. A
process that is killed while it writes loses only the answer that it was writing.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from specgen.core.errors import BadFile
from specgen.core.files import data_folder
from specgen.core.types import Message
from specgen.core.words import plural
from specgen.history.rows import Kind, LoggedAnswer, Sample, Turn, parse

_BUSY_S = 2.0  # wait for another writer, which needs milliseconds
_ERASE_TRIES = 3  # each waits up to _BUSY_S for readers
VERSION = 2
_MAX_INTEGER = (1 << 63) - 1  # of SQLite
_SCHEMA = (
    # `earlier` is a JSON array of the messages before the prompt, as integers: n is the turn of answer n, -n is row n
    # of `messages`. So a text is stored once, and deleting an answer removes it from every conversation. Ids of
    # answers are never reused.
    """CREATE TABLE answers (
        id INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, kind TEXT NOT NULL, template TEXT,
        reason TEXT NOT NULL, raw INTEGER NOT NULL, earlier TEXT NOT NULL, prompt TEXT NOT NULL,
        output TEXT NOT NULL, settings TEXT NOT NULL, stats TEXT NOT NULL)""",
    # Messages that are part of no answer: system prompts, and turns that were loaded from a file.
    """CREATE TABLE messages (
        id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, role TEXT NOT NULL, content TEXT NOT NULL)""",
)
_COLUMNS = "id, time, kind, template, reason, raw, prompt, output, settings, stats"
_REMOVE_UNUSED = """DELETE FROM messages WHERE id NOT IN (SELECT -value FROM answers,
    json_each(CASE WHEN json_valid(earlier) THEN earlier ELSE '[]' END) WHERE value < 0)"""
# CASE: SQLite may evaluate json_extract before json_valid in an AND, and fails on a damaged row.
_DRAFTED = """SELECT count(*), coalesce(sum(drafted), 0), coalesce(sum(accepted), 0) FROM (
    SELECT json_extract(stats, '$.by_source.draft.drafted') AS drafted,
    json_extract(stats, '$.by_source.draft.accepted') AS accepted FROM answers
    WHERE CASE WHEN json_valid(settings) AND json_valid(stats) THEN
    json_extract(settings, '$.target.id') = ? AND json_extract(settings, '$.draft.id') = ? END) WHERE drafted > 0"""


def location() -> Path:
    """The path of the history, which may not exist yet."""
    return data_folder() / "history.db"


def logging_is_on() -> bool:
    return not _switch().exists()


def switch_logging(on: bool) -> None:
    """Log later answers, or do not. Raises OSError."""
    if on:
        _switch().unlink(missing_ok=True)
    else:
        data_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        _switch().touch()


def _switch() -> Path:
    return data_folder() / "history.off"


class History:
    """The answers so far. The constructor opens or creates the file. Every method raises sqlite3.Error or OSError.

    Methods that read rows raise BadFile for a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # SQLite gives its other files the mode of this one
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
        try:
            self._db.row_factory = sqlite3.Row
            self._db.text_factory = lambda data: data.decode("utf-8", "replace")
            self._db.create_function("has", 2, _has, deterministic=True)
            self._create()
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
        messages: Sequence[Message | int],
        output: str,
        reason: str,
        settings: Mapping[str, Any],
        stats: Mapping[str, Any],
        template: str | None = None,
        raw: bool = False,
    ) -> int:
        """Log an answer to `messages`; return its id. The last message is the prompt.

        An integer among `messages` stands for the turn of the answer with that id: its prompt and its output. Raises
        ValueError for numbers that JSON does not have.
        """
        *earlier, prompt = messages
        assert isinstance(prompt, Message)  # noqa: S101
        as_json = [json.dumps(each, allow_nan=False) for each in (settings, stats)]
        with self._writing():
            ids = [each if isinstance(each, int) else -self._message_id(each) for each in earlier]
            row = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "kind": kind,
                "template": template,
                "reason": reason,
                "raw": raw,
                "earlier": json.dumps(ids),
                "prompt": _storable(prompt.content),
                "output": _storable(output),
                "settings": as_json[0],
                "stats": as_json[1],
            }
            names, places = ", ".join(row), ", ".join("?" * len(row))
            done = self._db.execute(f"INSERT INTO answers ({names}) VALUES ({places})", tuple(row.values()))  # noqa: S608
        assert done.lastrowid is not None  # noqa: S101
        return done.lastrowid

    def _message_id(self, message: Message) -> int:
        """The row of `messages` with this message, added if it is new."""
        role, content = message.role, _storable(message.content)
        digest = hashlib.sha256(f"{role}\n{content}".encode()).hexdigest()
        self._db.execute(
            "INSERT OR IGNORE INTO messages (digest, role, content) VALUES (?, ?, ?)", (digest, role, content)
        )
        return int(self._db.execute("SELECT id FROM messages WHERE digest = ?", (digest,)).fetchone()[0])

    def has(self, id: int) -> bool:  # noqa: A002
        """Whether there is an answer with this id, damaged or not."""
        return bool(self._db.execute("SELECT count(*) FROM answers WHERE id = ?", (_bounded(id),)).fetchone()[0])

    def count(self) -> int:
        """The number of answers."""
        return int(self._db.execute("SELECT count(*) FROM answers").fetchone()[0])

    def get(self, id: int) -> LoggedAnswer | None:  # noqa: A002
        return next(self._answers("WHERE id = ?", _bounded(id)), None)

    def last(self, *kinds: Kind) -> LoggedAnswer | None:
        """The latest answer of these kinds; of any kind without arguments."""
        wanted = f"WHERE kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
        return next(self._answers(f"{wanted} ORDER BY id DESC LIMIT 1", *kinds), None)

    def answers(self, limit: int | None = None) -> Iterator[LoggedAnswer]:
        """At most `limit` answers, the latest first."""
        return self._answers("ORDER BY id DESC LIMIT ?", _limit(limit))

    def search(self, texts: Sequence[str], limit: int | None = None) -> Iterator[LoggedAnswer]:
        """At most `limit` answers with each of `texts` in prompt or output, case-insensitive, the latest first.

        It reads every row: 10,000 rows of 2 KB take 0.1 s. SQLite's trigram index takes seconds to build, doubles the
        file, and keeps deleted text.
        """
        condition = " AND ".join(["(has(prompt, ?) OR has(output, ?))"] * len(texts))
        wanted = [text.casefold() for text in texts for _ in range(2)]
        return self._answers(f"WHERE {condition} ORDER BY id DESC LIMIT ?", *wanted, _limit(limit))

    def conversation(self, id: int) -> list[Message | Turn]:  # noqa: A002
        """The conversation of answer `id` up to and including its turn. Deleted turns are missing."""
        row = self._db.execute("SELECT earlier FROM answers WHERE id = ?", (_bounded(id),)).fetchone()
        if row is None:
            return []
        ids = [each for each in parse(row[0], list, id, "earlier", self._path) if isinstance(each, int)]
        turns = self._db.execute(
            "SELECT id, prompt, output FROM answers WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps([*ids, id]),),
        )
        found: dict[int, Message | Turn] = {row["id"]: Turn(*row) for row in turns}
        others = self._db.execute(
            "SELECT id, role, content FROM messages WHERE -id IN (SELECT value FROM json_each(?))", (json.dumps(ids),)
        )
        found |= {-row["id"]: Message(row["role"], row["content"]) for row in others}
        return [found[each] for each in (*ids, id) if each in found]

    def messages(self, id: int) -> list[Message]:  # noqa: A002
        """The messages that answer `id` answers, from the first of its conversation on."""
        return flatten(self.conversation(id))[:-1]

    def samples(self) -> Iterator[Sample]:
        """The figures of every answer, the earliest first."""
        return map(Sample.of, self._answers("ORDER BY id"))

    def drafted(self, target: str, draft: str) -> tuple[int, int, int]:
        """Number of answers of `target` with tokens of the draft model `draft`, its drafted tokens, and the accepted
        ones."""
        answers, drafted, accepted = self._db.execute(_DRAFTED, (target, draft)).fetchone()
        return answers, drafted, accepted

    def prompts(self, ids: Sequence[int]) -> list[str]:
        """The prompts of answers, damaged ones included."""
        rows = (self._db.execute("SELECT prompt FROM answers WHERE id = ?", (_bounded(id),)).fetchone() for id in ids)  # noqa: A001
        return [str(row[0]) for row in rows if row is not None]

    def delete(self, ids: Sequence[int]) -> int:
        """Remove answers, also from the conversations that went on; return their number.

        Raises BadFile if their text stays in the file, because another program reads it.
        """
        with self._writing():
            deleted = sum(
                self._db.execute("DELETE FROM answers WHERE id = ?", (_bounded(each),)).rowcount for each in ids
            )
            self._db.execute(_REMOVE_UNUSED)
        self._erase(deleted)
        return deleted

    def clear(self) -> int:
        """Remove every answer; return their number. Raises BadFile as `delete`."""
        with self._writing():
            deleted = self._db.execute("DELETE FROM answers").rowcount
            self._db.execute("DELETE FROM messages")
        self._erase(deleted)
        return deleted

    def _erase(self, deleted: int) -> None:
        """Shrink the file, and move the deletion from the log into it, so that no deleted text stays in either."""
        with contextlib.suppress(sqlite3.OperationalError):  # locked; secure_delete has cleared the text already
            self._db.execute("VACUUM")
        for _ in range(_ERASE_TRIES):
            busy, *_ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not busy:
                return
        raise BadFile(
            f"deleted {plural(deleted, 'answer')}, but another program reads {self._path}, which still has the text",
            hint="close that program, then run: specgen log",  # the last program that closes the file empties its log
        )

    def _answers(self, condition: str, *values: object) -> Iterator[LoggedAnswer]:
        for row in self._db.execute(f"SELECT {_COLUMNS} FROM answers {condition}", values):  # noqa: S608
            yield LoggedAnswer.read(row, self._path)

    def _create(self) -> None:
        """Create the tables in a new file."""
        if self._version() == 0:
            self._db.execute("PRAGMA journal_mode = WAL")
            with self._writing():
                if self._version() == 0:  # no other process was faster
                    for statement in _SCHEMA:
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {VERSION}")
        if self._version() != VERSION:
            raise sqlite3.DatabaseError("it was written by another version of specgen")
        self._db.execute("PRAGMA synchronous = NORMAL")  # in WAL mode a crash of the process loses nothing
        self._db.execute("PRAGMA secure_delete = ON")

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


def with_turns(messages: Sequence[Message], find: Callable[[str, str], int | None]) -> list[Message | int]:
    """`messages`, with the id of a logged answer in place of each turn that it stores.

    `find` returns the id for the contents of a prompt and the answer to it, None for a turn that is not logged.
    """
    found: list[Message | int] = []
    at = 0
    while at < len(messages):
        pair = messages[at : at + 2]
        is_turn = [message.role for message in pair] == ["user", "assistant"]
        id = find(pair[0].content, pair[1].content) if is_turn else None  # noqa: A001
        found.append(pair[0] if id is None else id)
        at += 1 if id is None else 2
    return found


def flatten(conversation: Sequence[Message | Turn]) -> list[Message]:
    """The messages of a conversation, two for each turn."""
    return [message for each in conversation for message in (each.messages if isinstance(each, Turn) else (each,))]


def _has(text: object, wanted: str) -> bool:
    return isinstance(text, str) and wanted in text.casefold()


def _storable(text: str) -> str:
    """`text` with lone surrogates replaced, which have no UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _bounded(id: int) -> int:  # noqa: A002
    """`id`, or 0, which no answer has, if SQLite cannot hold it."""
    return id if 0 < id <= _MAX_INTEGER else 0


def _limit(limit: int | None) -> int:
    return -1 if limit is None else min(limit, _MAX_INTEGER)
