"""How a server begins and ends, and the commands that speak to it."""

import asyncio
import contextlib
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import openai
import pytest

from specgen.core.events import Event, Failed, Finished, Progress
from specgen.core.types import EngineOptions
from specgen.serve.background.endpoint import open_endpoint
from specgen.serve.server import Server
from specgen.serve.worker.pool import PairKey, PairOpener
from specgen.session.pair import Pair
from specgen.session.session import Session
from tests.cli.command import invoke
from tests.serve.running import ASK, LONG, Running, gated, opening_of, running, until

DOCUMENTED = "http://127.0.0.1:8080"


def test_it_ends_when_nobody_has_asked_anything_for_a_while(tmp_path: Path) -> None:
    session, model = gated(tmp_path)
    with running(session, tmp_path, keep_alive_s=0.5) as server:
        with server.connect() as caller:
            body = json.dumps(ASK | {"max_tokens": 1}).encode()
            caller.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            model.wait_for_a_pass()
            # An answer that runs is no idle time, however long it takes.
            server.thread.join(1.0)
            assert server.thread.is_alive()
            model.pass_on()
            assert b"200 OK" in caller.recv(4096)
        server.thread.join(LONG)
        assert not server.thread.is_alive()
        assert server.notices == ["nobody has asked anything for a while: ending"]


MANY = 1000  # tokens, so that one pair answers meanwhile


def test_it_is_idle_when_all_pairs_are(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (session, model), (other, other_model) = gated(tmp_path), gated(tmp_path / "other")
    opening = opening_of(session, other)
    with ThreadPoolExecutor() as pool, running(session, tmp_path, keep_alive_s=0.5, opening=opening) as server:
        asked = pool.submit(ask_other, server)
        other_model.wait_for_a_pass()
        # With one pair that has nothing to do, and one that has.
        server.thread.join(1.0)
        assert server.thread.is_alive()
        rows = invoke("ps").text.splitlines()[1:]
        assert [row.split()[0] for row in rows] == ["fake", "other", "process"]
        assert [row.split()[-1] for row in rows[:2]] == ["s", "busy"]
        assert [pair["state"] for pair in json.loads(invoke("ps", "--json").text)[0]["pairs"]] == ["idle", "busy"]
        with server.http() as client:
            assert [each["id"] for each in client.get("/v1/models").json()["data"]] == ["fake", "other"]
            model.pass_on(4)
            other_model.pass_on(MANY + 4)
            for name in ("fake", "other"):
                answer = client.post("/v1/chat/completions", json=ASK | {"model": name, "max_tokens": 2}).json()
                assert answer["model"] == name
                assert answer["choices"][0]["message"]["content"] == "aa"
        assert asked.result() == "a" * MANY
        server.thread.join(LONG)
        assert not server.thread.is_alive()
        assert server.notices == ["nobody has asked anything for a while: ending"]


def ask_other(server: Running) -> str:
    """What the pair `other` answers, which nobody has named to the server before."""

    async def ask() -> str:
        worker = server.server.pool.worker(PairKey("other", "none", EngineOptions(num_draft_tokens=0)))
        job = worker.ask(lambda session: session.generate("hello", max_new_tokens=MANY), "")
        while not isinstance(event := await job.next(), Finished):
            assert not isinstance(event, Failed), event
        return event.text

    return asyncio.run(ask())


def loading_until(goes_on: threading.Event, session: Session) -> PairOpener:
    def load(*_: object) -> Generator[Event, None, Pair]:
        while not goes_on.is_set():
            yield Progress("loading fake")
            time.sleep(0.01)
        return session.pair

    return load


def test_ps_and_stop_answer_while_it_loads(tmp_path: Path) -> None:
    session, _ = gated(tmp_path, opened=True)
    with (
        running(session, tmp_path, opening=loading_until(threading.Event(), session), wait=False) as server,
        ThreadPoolExecutor() as pool,
    ):
        while not (found := json.loads(invoke("ps", "--json").text)) or not found[0]["pairs"]:
            time.sleep(0.01)
        assert [(pair["model"], pair["state"]) for pair in found[0]["pairs"]] == [("fake", "loading")]
        assert invoke("ps").text.splitlines()[1].split() == ["fake", "0", "0", "loading"]
        with server.openai() as client:
            waiting = pool.submit(client.completions.create, model="fake", prompt="hello")
            while not server.server.status()["waiting"]:
                time.sleep(0.01)
            server.server.stop()
            server.thread.join(LONG)
            assert not server.thread.is_alive()
            assert server.server.pool.join(LONG)
            with pytest.raises(openai.InternalServerError, match="the server is ending"):
                waiting.result()
    assert server.notices == []


def test_who_asks_while_it_loads_is_answered_then(tmp_path: Path) -> None:
    session, _ = gated(tmp_path, opened=True)
    goes_on = threading.Event()
    with (
        running(session, tmp_path, opening=loading_until(goes_on, session), wait=False) as server,
        ThreadPoolExecutor() as pool,
        server.http() as client,
    ):
        asked = pool.submit(client.post, "/v1/chat/completions", json=ASK | {"max_tokens": 2})
        while not server.server.status()["waiting"]:
            time.sleep(0.01)
        goes_on.set()
        assert asked.result().json()["choices"][0]["message"]["content"] == "aa"


def test_ps_shows_the_server(tmp_path: Path) -> None:
    session, _ = gated(tmp_path, opened=True)
    with running(session, tmp_path) as server:
        with server.http() as client:
            client.post("/v1/chat/completions", json=ASK | {"max_tokens": 1}).raise_for_status()
        shown = invoke("ps")
        heads, row, about = shown.text.splitlines()
        assert heads.split()[:3] == ["MODEL", "DRAFT", "MEMORY"]
        assert row.split()[:2] == ["fake", "none"]
        assert server.url in about
        (found,) = json.loads(invoke("ps", "--json").text)
        assert found["requests"] == found["pairs"][0]["requests"] == 1
        assert found["memory"] > 1 << 20
        assert found["waiting"] == 0
        assert found["url"] == server.url
        assert str(server.path) in about
        assert found["socket"] == str(server.path)
        server.server.stop()
        server.thread.join(LONG)


def test_without_a_server_they_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specgen.serve.background.endpoint.user_runtime_path", lambda *_, **__: tmp_path / "none")
    for _ in range(2):
        assert (invoke("ps").code, invoke("ps").text) == (0, "")
        assert "no server runs" in invoke("ps").err
        assert json.loads(invoke("ps", "--json").text) == []
        assert invoke("stop").err == "specgen: no server runs\n"
        # The second time with the socket of a server that was killed.
        (tmp_path / "none").mkdir(exist_ok=True)
        if not (tmp_path / "none" / "serve.sock").exists():
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(str(tmp_path / "none" / "serve.sock"))


@contextlib.contextmanager
def program(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """specgen as a program, which is killed if the test fails."""
    command = [sys.executable, "-m", "specgen", *arguments]
    # Tests under nohup ignore SIGHUP. The program would inherit that, and rightly ignore the signal too.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        signal.signal(signal.SIGHUP, before)
        try:
            yield started
        finally:
            started.kill()


@pytest.mark.parametrize("by_signal", [None, signal.SIGTERM, signal.SIGHUP])
def test_the_command_from_start_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_signal: signal.Signals | None
) -> None:
    """As a program: it says where it answers, refuses a second one, and ends with code 0 and without its socket."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with program("serve", "-m", "stories", "--threads", "1", "--http", "127.0.0.1:0") as server:
        assert server.stderr
        line = server.stderr.readline()
        assert line.startswith("specgen: stories answers at http://127.0.0.1:")
        if by_signal is None:
            url = line.split()[4]
            asked = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 16}
            said = httpx2.post(f"{url}/completions", json=asked, timeout=LONG).json()["choices"][0]["text"]
            assert len(said) > 10
            assert_examples_run(url.removesuffix("/v1"))
            second = invoke("serve", "-m", "stories")
            assert second.code == 1
            assert second.err.startswith(f"specgen: specgen serve runs already: process {server.pid}, at {url[:-3]}")
            assert second.err.endswith("; specgen stop ends it\n")
            assert invoke("stop").code == 0
        else:
            server.send_signal(by_signal)
        assert server.wait(LONG) == 0
        assert server.stdout
        assert server.stdout.read() == ""
    assert invoke("ps").text == ""
    assert [file.name for file in (tmp_path / "specgen").iterdir()] == ["serve.lock"]


def test_serve_takes_over_from_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user has started none. A wrong address ends nothing, and a missing model is named."""
    monkeypatch.setattr("specgen.serve.background.endpoint.user_runtime_path", lambda *_, **__: tmp_path / "runtime")

    def serve() -> None:
        with open_endpoint(None, has_key=False) as endpoint:
            Server(endpoint, background=True, opening=opening_of(gated(tmp_path)[0])).run()

    thread = threading.Thread(target=serve)
    thread.start()
    until((tmp_path / "runtime" / "serve.sock").exists)
    assert "(in the background)" in invoke("ps").text
    assert invoke("serve", "-m", "./nope", "--http", "nowhere").code == 2
    assert thread.is_alive()
    refused = invoke("serve", "-m", "./nope")
    assert refused.code == 3
    assert "./nope" in refused.err
    thread.join(LONG)
    assert not thread.is_alive()


def assert_examples_run(url: str) -> None:
    """What docs/serve.md shows, against this server."""
    text = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8").replace(DOCUMENTED, url)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert "drafted tokens accepted" in printed.getvalue()
    if shutil.which("curl") is None:
        return
    commands = re.findall(r"```sh\n(curl .*?)\n```", text, re.DOTALL)
    shown = [
        subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True, timeout=LONG).stdout
        for command in commands
    ]
    assert ['"text"' in shown[0], "[DONE]" in shown[1], '"id":"stories"' in shown[2]] == [True] * 3


def test_an_address_is_refused_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("SPECGEN_API_KEY", raising=False)
    for address, words in {"0.0.0.0:0": "can be reached by others", "nowhere": "give HOST:PORT"}.items():
        refused = invoke("serve", "-m", "no/such-model", "--http", address, "--offline")
        assert refused.code == 2
        assert words in refused.err
