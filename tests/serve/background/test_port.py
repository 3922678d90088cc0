"""The way of a system without Unix sockets, forced on this one: a loopback port, and a file with its token."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from specgen.core.errors import SpecgenError
from specgen.serve.background.connection import Broken, Channel, status
from specgen.serve.background.endpoint import take_place
from specgen.serve.port import HOST, NONCE, PROOF, Port, read
from tests.cli.command import invoke
from tests.serve.asking import warm, words
from tests.serve.running import LONG, gated, running

pytestmark = pytest.mark.usefixtures("loopback")

PROMPT = "nobody else may read this"


def test_the_file_is_the_users_alone(runtime: Path, tmp_path: Path) -> None:
    """Whatever was put in its place before; it goes with the server."""
    runtime.mkdir(mode=0o755)
    (tmp_path / "theirs").write_text("old")
    (runtime / "serve.port").symlink_to(tmp_path / "theirs")
    with take_place(None, has_key=False) as place:
        assert place.path == runtime / "serve.port"
        found = place.path.lstat()
        assert (found.st_mode & 0o777, found.st_uid) == (0o600, os.geteuid())
        assert place.path.is_file()
        assert not place.path.is_symlink()
        assert runtime.stat().st_mode & 0o777 == 0o700
        assert place.port == read(place.path)
        assert place.sockets[0].getsockname() == (HOST, place.port.number)
        assert len(place.port.token) > 40
        first = place.port
    assert (tmp_path / "theirs").read_text() == "old"
    assert [path.name for path in runtime.iterdir()] == ["serve.lock"]
    with take_place(None, has_key=False) as place:
        assert place.port
        assert place.port.token != first.token


@pytest.mark.parametrize("left", ["", "{", "[]", '{"number": 1}', '{"number": 0, "token": "x"}', '{"number": "1"}'])
def test_a_file_that_names_no_port_names_nobody(runtime: Path, left: str) -> None:
    runtime.mkdir()
    (runtime / "serve.port").write_text(left)
    assert status() is None
    with pytest.raises(ConnectionRefusedError):
        Channel(runtime / "serve.port")
    with take_place(None, has_key=False) as place:
        assert read(place.path) == place.port


def test_of_several_that_start_at_once_one_listens(runtime: Path) -> None:
    ready, over = threading.Barrier(4), threading.Barrier(4)

    def listen(_: int) -> Port | None:
        ready.wait(LONG)
        try:
            with take_place(None, has_key=False) as place:
                over.wait(LONG)
                assert read(place.path) == place.port
                return place.port
        except SpecgenError:
            over.wait(LONG)
            return None

    with ThreadPoolExecutor(4) as pool:
        assert sum(port is not None for port in pool.map(listen, range(4))) == 1
    assert not (runtime / "serve.port").exists()


def test_nothing_is_answered_without_the_token(tmp_path: Path) -> None:
    session, _ = gated(tmp_path, opened=True)
    with running(session, tmp_path, key="another") as server, server.http() as public:
        port = read(server.path)
        wrong: list[dict[str, str]] = [
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer another"},
            {"Authorization": f"Basic {port.token}"},
        ]
        with httpx2.Client(base_url=f"http://{HOST}:{port.number}", timeout=LONG) as own:
            right = {"Authorization": f"Bearer {port.token}"}
            for path in ("/health", "/metrics", "/v1/models", "/specgen/status", "/none"):
                assert [own.get(path, headers=headers).status_code for headers in wrong] == [401] * 4, path
                assert own.get(path, headers=right | {"Host": "evil.example"}).status_code == 403
            for path in ("/specgen/stop", "/specgen/ask", "/specgen/interrupt", "/v1/completions"):
                assert [own.post(path, headers=headers, json={}).status_code for headers in wrong] == [401] * 4, path
            assert own.post("/specgen/stop", headers=right).status_code == 415
            assert own.get("/health", headers=right).is_success
            assert own.get(PROOF, headers={NONCE: "1", "Host": "evil.example"}).status_code == 403
            assert own.get(PROOF, headers={NONCE: "1"}).json() == {"proof": port.proof("1")}
            assert port.proof("1") != port.proof("2")
        # Nor has the address of others what is the user's alone, whatever they know.
        for headers in ({"Authorization": "Bearer another"}, right):
            for path in ("/specgen/status", PROOF):
                assert public.get(path, headers=headers).status_code == 404
            assert public.post("/specgen/stop", headers=headers, json={}).status_code == 404
        assert public.get("/v1/models", headers=right).status_code == 401
        with OpenAI(base_url=f"http://{HOST}:{port.number}/v1", api_key=port.token, timeout=LONG) as client:
            assert client.completions.create(model="fake", prompt="hello", max_tokens=2).choices[0].text == "aa"
        assert server.thread.is_alive()


def test_who_has_another_token_is_refused(tmp_path: Path) -> None:
    """The other end is as little the user's own then as it is for this one."""
    session, _ = gated(tmp_path)
    with running(session, tmp_path) as server:
        port = read(server.path)
        server.path.write_text(json.dumps({"number": port.number, "token": "wrong"}))
        with Channel(server.path) as channel, pytest.raises(Broken):
            channel.send("status", None, LONG)
        with Channel(server.path) as channel:
            channel._is_proven = True
            assert channel.send("status", None, LONG) == 401


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


@pytest.fixture
def stranger(runtime: Path) -> Iterator[Callable[[bytes], bytearray]]:
    """A process of somebody else at the port that a file names whose server was killed: what it reads."""
    runtime.mkdir()
    with socket.create_server((HOST, 0)) as other:

        def begin(says: bytes) -> bytearray:
            read = bytearray()

            def answer() -> None:
                while True:
                    try:
                        accepted, _ = other.accept()
                    except OSError:
                        return
                    with accepted:
                        while piece := accepted.recv(1 << 16):
                            read.extend(piece)
                            accepted.sendall(says)
                            if not says:
                                break

            threading.Thread(target=answer, daemon=True).start()
            return read

        (runtime / "serve.port").write_text(json.dumps({"number": other.getsockname()[1], "token": "left behind"}))
        yield begin
        other.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
        ok(b"{}"),
        ok(b"[" * 10000),
        ok(b'{"proof": "\\ud800"}'),
        ok(json.dumps({"proof": Port(1, "another").proof("1")}).encode()),
    ],
)
def test_a_stranger_at_the_port_reads_nothing_of_the_user(
    says: bytes, here: None, identity: None, runtime: Path, stranger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specgen.serve.background.launcher._ENDS_S", 0.05)
    received = stranger(says)
    with warm() as caller:
        assert words(caller.generate(PROMPT, max_new_tokens=2)) == ("aa", [])
    assert received.startswith(b"GET /specgen/proof ")
    assert PROMPT.encode() not in received
    assert b"left behind" not in received
    assert not (runtime / "serve.port").exists()


def test_a_stranger_who_says_nothing_is_done_without(
    here: None, identity: None, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.mkdir()
    monkeypatch.setattr("specgen.serve.background.launcher._patience", lambda: 0.1)
    monkeypatch.setattr("specgen.serve.background.connection._ANSWER_S", 0.1)
    with socket.create_server((HOST, 0)) as silent:
        left = json.dumps({"number": silent.getsockname()[1], "token": "left behind"})
        for ask in (lambda: words(warm().generate(PROMPT, max_new_tokens=2)), lambda: invoke("stop").err):
            (runtime / "serve.port").write_text(left)
            assert ask() in (("aa", []), "specgen: no server runs\n")
            assert not (runtime / "serve.port").exists()


def test_a_server_that_is_slow_is_not_cleared_away(
    here: None, identity: None, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the lock, and is asked again."""
    monkeypatch.setattr("specgen.serve.background.launcher._patience", lambda: 0.1)
    monkeypatch.setattr("specgen.serve.background.connection._ANSWER_S", 0.1)
    with take_place(None, has_key=False) as place:
        text, (notice,) = words(warm().generate(PROMPT, max_new_tokens=2))
        assert text == "aa"
        assert notice.startswith("the background process does not answer")
        assert "the server does not answer: it takes too long" in invoke("ps").err
        assert place.path.exists()


def test_the_process_itself(runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that start at once: one stays, answers commands as they would do it themselves, and is stopped by one."""
    story = ("-m", "stories", "-k", "3", "-n", "8", "--temp", "0.9", "--seed", "7", "Once upon a time")
    expected = invoke(*story, "--keep-alive", "off").out
    monkeypatch.setenv("SPECGEN_KEEP_ALIVE", "1h")
    monkeypatch.setattr("specgen.serve.background.launcher._patience", lambda: LONG)
    program = (
        "import pathlib\n"
        "from specgen.serve import background, place\n"
        "place.has_unix_sockets = lambda: False\n"
        f"place.user_runtime_path = lambda *_, **__: pathlib.Path({str(runtime)!r})\n"
        "background.main()\n"
    )
    begun: list[subprocess.Popen[bytes]] = []

    def start() -> Channel | None:
        begun.extend(subprocess.Popen([sys.executable, "-c", program]) for _ in range(2))
        while all(process.poll() is None for process in begun):
            time.sleep(0.05)
        return Channel(runtime / "serve.port")

    monkeypatch.setattr("specgen.serve.background.launcher.start", start)
    try:
        for _ in range(2):
            answered = invoke(*story)
            assert (answered.code, answered.out, answered.err) == (0, expected, "")
        found = status()
        assert found
        assert (found["requests"], found["background"], found["socket"]) == (2, True, None)
        assert found["pid"] in [process.pid for process in begun]
        assert invoke("ps").text.startswith("MODEL")
        assert (invoke("stop").code, invoke("ps").text) == (0, "")
        assert [process.wait(LONG) for process in begun] == [0, 0]
        assert not (runtime / "serve.port").exists()
    finally:
        for process in begun:
            process.kill()
