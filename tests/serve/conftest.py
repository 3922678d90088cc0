"""Fixtures of the tests of the server."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.events import Event
from specgen.serve.background.client import BackgroundSession
from specgen.session.session import Session
from tests.serve.asking import OWN
from tests.serve.running import LONG, Running, gated, running


@pytest.fixture(scope="module")
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """The pair that comes with specgen, with the OPTIONS of the test file, if it has any."""
    with Session("stories", options=getattr(request.module, "OPTIONS", None)) as session:
        list(session.open())
        yield session


@pytest.fixture(scope="module")
def server(session: Session, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server over that, which calls it `fake`."""
    with running(session, tmp_path_factory.mktemp("serve")) as running_server:
        yield running_server


@pytest.fixture
def client(server: Running) -> Iterator[OpenAI]:
    with server.openai() as client:
        yield client


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's runtime folder, which is not there yet."""
    monkeypatch.setattr("specgen.serve.background.endpoint.user_runtime_path", lambda *_, **__: tmp_path / "runtime")
    return tmp_path / "runtime"


@pytest.fixture
def fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks here is OWN, and patient; a fake is on no disk, and always current."""
    monkeypatch.setattr("specgen.serve.background.client.Fingerprint.own", lambda: OWN)
    monkeypatch.setattr("specgen.serve.background.launcher._patience", lambda: LONG)
    monkeypatch.setattr("specgen.serve.worker.shared_session.find_again", _found)


def _found(checkpoint: Checkpoint, _: object) -> Generator[Event, None, Checkpoint]:
    yield from ()
    return checkpoint


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process answer by itself, when it has to, with what else another would. Nobody starts one."""

    def in_process(session: BackgroundSession) -> Session:
        session._launcher.disconnect()
        if session._local is None:
            session._local = gated(tmp_path, opened=True)[0]
        return session._local

    monkeypatch.setattr("specgen.serve.background.client.BackgroundSession._local_session", in_process)
    monkeypatch.setattr("specgen.serve.background.launcher.start", lambda: None)
