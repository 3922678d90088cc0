"""Fixtures for tests of commands."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from specgen.cli.main import main
from specgen.serve.background.client import BackgroundSession
from specgen.serve.background.fingerprint import Fingerprint
from tests.cli.command import Run


@pytest.fixture(autouse=True, scope="package")
def one_thread_each() -> Iterator[None]:
    """torch on one thread, also in child processes. With tiny models more threads only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run specgen here; its exit code, stdout and stderr."""

    def specgen(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return int(caught.value.code or 0), out, err

    return specgen


@pytest.fixture(scope="session")
def keeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A runtime folder whose background process is a thread of this process."""
    from specgen.serve.background.endpoint import open_endpoint
    from specgen.serve.server import Server

    folder = tmp_path_factory.mktemp("keeper")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        with open_endpoint(None, has_key=False) as endpoint:
            server = Server(endpoint, background=True, fingerprint=ALIKE)
            thread = threading.Thread(target=server.run)
            thread.start()
            patch.undo()
            yield folder
            server.stop()
            thread.join()


# Newer than any program that a test starts, which lets it alone then.
ALIKE = Fingerprint("999", "here", 0, "the same")


@pytest.fixture(params=["in process", "kept"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, no_user_settings: Path) -> None:
    """Run the test with models loaded by the command, and by a background process."""

    def alone(session: BackgroundSession) -> Any:
        assert session._options.trust_remote_code, "the answer does not come from the background process"
        return here(session)

    here = BackgroundSession._local_session
    if request.param != "in process":
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(request.getfixturevalue("keeper")))
        monkeypatch.setenv("SPECGEN_KEEP_ALIVE", "24h")
        monkeypatch.setattr("specgen.serve.background.launcher._patience", lambda: 600.0)
        monkeypatch.setattr("specgen.serve.background.client.Fingerprint.own", lambda: ALIKE)
        monkeypatch.setattr("specgen.serve.background.client.BackgroundSession._local_session", alone)
