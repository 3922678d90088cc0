"""Where the server is found, and who may come."""

import os
import socket
from pathlib import Path

import httpx2
import openai
import pytest

from specgen.core.errors import SpecgenError, UsageError
from specgen.serve.api.http import may_connect, peer_uid
from specgen.serve.background.endpoint import open_endpoint, socket_path
from tests.serve.running import ASK, gated, running


def test_nobody_else_reaches_the_socket(runtime: Path) -> None:
    runtime.mkdir(mode=0o755)
    with open_endpoint(None, has_key=False) as endpoint:
        assert endpoint.path == runtime / "serve.sock"
        assert endpoint.path.stat().st_mode & 0o777 == 0o600
        assert runtime.stat().st_mode & 0o777 == 0o700
    assert not endpoint.path.exists()


def test_a_second_server_is_refused(runtime: Path) -> None:
    with open_endpoint(None, has_key=False) as endpoint:
        with pytest.raises(SpecgenError, match="a server runs already"), open_endpoint(None, has_key=False):
            pass
        assert endpoint.path.exists()
    with open_endpoint(None, has_key=False):
        pass


def test_a_socket_that_a_killed_server_left_is_replaced(runtime: Path) -> None:
    runtime.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(runtime / "serve.sock"))
    (runtime / "serve.lock").touch()
    with open_endpoint(None, has_key=False), socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(runtime / "serve.sock"))


def test_a_folder_of_somebody_else_is_not_used(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    runtime.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SpecgenError, match="belongs to somebody else"), open_endpoint(None, has_key=False):
        pass


def test_a_machine_without_runtime_folders_has_a_place_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no line of Python's about it: warnings are errors here."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("platformdirs.unix.os.access", lambda *_: False)
    assert socket_path().name == "serve.sock"


def test_a_path_that_is_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specgen.serve.background.endpoint.user_runtime_path", lambda *_, **__: tmp_path / ("x" * 120))
    with pytest.raises(SpecgenError, match="set XDG_RUNTIME_DIR"), open_endpoint(None, has_key=False):
        pass


def test_another_user_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, _ = gated(tmp_path, opened=True)
    with running(session, tmp_path) as server:
        with server.unix() as client:
            assert client.get("/health").is_success
        with monkeypatch.context() as patch:
            patch.setattr("specgen.serve.api.http.peer_uid", lambda _: os.geteuid() + 1)
            for path in ("/health", "/specgen/status"):
                with server.unix() as client, pytest.raises(httpx2.TransportError):
                    client.get(path)
        with server.unix() as client:
            assert client.get("/health").is_success


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="this system does not say who is at the other end")
def test_the_system_says_who_is_at_the_other_end() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert peer_uid(one) == os.geteuid()
        assert may_connect(one)


@pytest.mark.parametrize("http", ["8080", ":8080", "localhost:", "localhost:x", "localhost:99999"])
def test_an_address_that_is_none(runtime: Path, http: str) -> None:
    with pytest.raises(UsageError, match="--http is"), open_endpoint(http, has_key=False):
        pass


@pytest.mark.parametrize("http", ["0.0.0.0:0", "[::]:0"])
def test_others_need_a_key(runtime: Path, http: str) -> None:
    with pytest.raises(UsageError, match="can be reached by others"), open_endpoint(http, has_key=False):
        pass


def test_with_a_key_it_listens_for_others(runtime: Path) -> None:
    with open_endpoint("0.0.0.0:0", has_key=True) as endpoint:
        assert endpoint.hosts is None


def test_a_port_that_is_taken(runtime: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(SpecgenError, match="is in use; choose another port"), open_endpoint(taken, has_key=False):
            pass


def test_over_http_the_key_is_asked_for(tmp_path: Path) -> None:
    session, _ = gated(tmp_path, opened=True)
    with running(session, tmp_path, key="geheim-é") as server:
        with server.openai("wrong") as client, pytest.raises(openai.AuthenticationError, match="the API key is wrong"):
            client.models.list()
        with server.http() as http:
            assert http.get("/health").is_success
            for path in ("/v1/models", "/metrics"):
                assert http.get(path).status_code == 401
            right = {"Authorization": "Bearer geheim-é".encode()}
            assert http.get("/v1/models", headers=right).is_success
        with server.unix() as client:
            assert client.post("/v1/chat/completions", json=ASK | {"max_tokens": 1}).is_success
