"""A new draft for a pair that the background process has loaded."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.errors import ModelNotFound, SpecgenError
from specgen.core.events import Event, Notice
from specgen.core.types import ModelRef
from specgen.serve.background.client import BackgroundSession
from specgen.serve.background.connection import Connection, ConnectionFailed
from specgen.serve.worker.pool import PairKey, PairOpener
from specgen.serve.worker.worker import Worker
from specgen.session import loading
from specgen.session.pair import Pair
from specgen.session.session import Session
from tests.serve.asking import OPTIONS, OWN, warm, words
from tests.serve.running import LONG, gated, opening_of, running

pytestmark = pytest.mark.usefixtures("fingerprint")


def test_another_draft_goes_on_with_the_target_that_is_loaded(
    tmp_path: Path, checkpoints: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []

    def counted(checkpoint: Checkpoint, *rest: Any, **named: Any) -> Any:
        loads.append(checkpoint.path.name)
        return load(checkpoint, *rest, **named)

    load = loading._load
    monkeypatch.setattr(loading, "_load", counted)
    target, draft = checkpoints.target("llama"), checkpoints.draft("llama")
    session, _ = gated(tmp_path)
    wanted: dict[str, Any] = {"raw": True, "max_new_tokens": 8}
    with (
        running(session, tmp_path, fingerprint=OWN, opening=either(session)) as server,
        BackgroundSession(str(target), "none", OPTIONS, LONG) as caller,
        BackgroundSession(str(target), "lookup", OPTIONS, LONG) as other,
    ):
        expected = words(caller.generate("hello", **wanted))
        for name, drafter in ((str(draft), "hybrid"), ("lookup", "lookup")):
            assert not [event for event in caller.change_draft(name) if isinstance(event, Notice)]
            assert caller.pair.drafter_name == drafter
            assert words(caller.generate("hello", **wanted)) == expected
            assert [(pair["model"], pair["drafter"]) for pair in server.server.status()["pairs"]] == [
                ("fake", "none"),
                (str(target), drafter),
            ]
        with pytest.raises(ModelNotFound):
            list(caller.change_draft("./no-such-folder"))
        assert words(caller.generate("hello", **wanted)) == expected
        assert words(other.generate("hello", **wanted)) == expected
        assert loads == [target.name, draft.name]
        # What somebody is being answered with stays his.
        worker = server.server.pool.worker(PairKey(str(target), "lookup", OPTIONS))
        with monkeypatch.context() as patch:
            patch.setattr(Worker, "running", property(lambda each: each is worker))
            list(caller.change_draft("none"))
        assert loads == [target.name, draft.name, target.name]
        assert len(server.server.status()["pairs"]) == 3


def either(session: Session) -> PairOpener:
    """Opens the fake pair, and loads any other model."""

    def opening(target: ModelRef, *rest: Any) -> Generator[Event, None, Pair]:
        return (opening_of(session) if target.source == "fake" else loading.open_pair)(target, *rest)

    return opening


def test_a_draft_that_cannot_be_changed_here_leaves_nothing_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, _ = gated(tmp_path, opened=True)
    closed: list[str] = []
    with running(session, tmp_path, fingerprint=OWN), warm() as caller:
        list(caller.open())
        caller._launcher.disconnect()
        with monkeypatch.context() as patch:
            patch.setattr("specgen.serve.background.launcher._connected", nobody)
            patch.setattr(Session, "close", lambda session: closed.append(session.target))
            with pytest.raises(SpecgenError):
                list(caller.change_draft("lookup"))
            assert closed == ["fake"]
        assert words(caller.generate("hello", max_new_tokens=2)) == ("aa", [])


def nobody() -> Generator[Event, None, Connection]:
    yield from ()
    raise ConnectionFailed
