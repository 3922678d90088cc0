"""Where the server is found, and who may come."""

import contextlib
import json
import os
import shutil
import socket
from pathlib import Path

import httpx2
import openai
import pytest

from specgen.core.errors import SpecgenError, UsageError
from specgen.serve.api.http import RequestLimits, may_connect, peer_uid
from specgen.serve.background.connection import status
from specgen.serve.background.endpoint import open_endpoint, socket_path
from specgen.serve.background.process import can_launch
from tests.cli.command import invoke
from tests.serve.running import ASK, gated, running, until


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


def assert_no_server_can_run() -> None:
    """Nothing is started, and no command fails or waits."""
    assert not can_launch()
    assert status() is None
    assert (invoke("ps").code, invoke("stop").code) == (0, 0)
    with pytest.raises(SpecgenError, match="set XDG_RUNTIME_DIR"), open_endpoint(None, has_key=False):
        pass


def test_a_path_too_long_for_a_socket_leaves_commands_without_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ("x" * 120) / "specgen"
    monkeypatch.setattr("specgen.serve.background.endpoint.user_runtime_path", lambda *_, **__: folder)
    assert_no_server_can_run()


def test_a_runtime_folder_of_somebody_else_does_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "theirs" / "specgen"
    folder.parent.mkdir(mode=0o700)
    owner = folder.parent.stat()
    lstat = Path.lstat

    def theirs(path: Path) -> os.stat_result:
        if path.is_relative_to(folder):
            raise PermissionError(13, "Permission denied")
        if path == folder.parent:
            return os.stat_result((owner.st_mode, *owner[1:4], os.geteuid() + 1, *owner[5:]))
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", theirs)
    monkeypatch.setattr("specgen.serve.background.endpoint.os.access", lambda *_: False)
    monkeypatch.setattr("specgen.serve.background.endpoint.user_runtime_path", lambda *_, **__: folder)
    assert_no_server_can_run()


def test_a_server_whose_folder_went_leaves_the_socket_of_the_next(runtime: Path) -> None:
    with contextlib.ExitStack() as second:
        with open_endpoint(None, has_key=False) as endpoint:
            assert endpoint.is_reachable()
            shutil.rmtree(runtime)
            assert not endpoint.is_reachable()
            other = second.enter_context(open_endpoint(None, has_key=False))
            assert not endpoint.is_reachable()
        assert other.is_reachable()


def test_a_server_that_nobody_can_reach_ends(tmp_path: Path) -> None:
    session, _ = gated(tmp_path, opened=True)
    with running(session, tmp_path) as server:
        server.path.unlink()
        until(lambda: bool(server.notices))
        assert "specgen ps and stop cannot reach this server" in server.notices[0]
        with server.http() as client:
            assert client.get("/health").is_success


def test_a_caller_who_sends_no_more_gets_the_answer(tmp_path: Path) -> None:
    session, model = gated(tmp_path)
    body = json.dumps(ASK | {"max_tokens": 1}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with running(session, tmp_path) as server:
        with server.connect() as caller:
            caller.sendall(head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            caller.shutdown(socket.SHUT_WR)
            model.wait_for_a_pass()
            model.pass_on()
            received = b""
            while piece := caller.recv(4096):
                received += piece
            assert b"200 OK" in received
            assert b'"content":"a"' in received
        with server.connect() as gone:
            gone.sendall(head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            model.wait_for_a_pass()
        until(lambda: any(worker._running.cancelled_at for worker in server.server.pool._all() if worker._running))
        model.pass_on()


def test_health_is_for_every_load_balancer(tmp_path: Path) -> None:
    session, _ = gated(tmp_path, opened=True)
    with running(session, tmp_path, key="secret") as server:
        with server.http() as client:
            assert client.get("/health", headers={"host": "elsewhere.example"}).is_success
        with server.connect() as old:
            old.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            assert b"200 OK" in old.recv(4096)


@pytest.mark.parametrize("key", [None, "secret"])
def test_a_refusal_comes_before_the_connection_ends(tmp_path: Path, key: str | None) -> None:
    """A body that nobody wants is read, as a reset would cost the caller the answer."""
    session, _ = gated(tmp_path, opened=True)
    large = b"x" * (4 << 20)
    with running(session, tmp_path, key=key, limits=RequestLimits(body=1 << 20)) as server, server.connect() as caller:
        caller.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(large)
        )
        caller.sendall(large)
        assert (b"401" if key else b"413") in caller.recv(4096)
