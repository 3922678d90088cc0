"""Many callers at once, and callers who go away."""

import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from specgen.serve.api.http import RequestLimits
from tests.serve.running import ASK, LONG, Gated, Running, crowded, until


def ask(server: Running, tokens: int) -> str:
    with server.openai() as client:
        answer = client.completions.create(model="fake", prompt="hello", max_tokens=tokens)
    return answer.choices[0].text


def test_two_callers_are_answered_in_turn(tmp_path: Path) -> None:
    with crowded(tmp_path) as (server, model, pool):
        first = pool.submit(ask, server, 3)
        model.wait_for_a_pass()
        second = pool.submit(ask, server, 2)
        until(lambda: server.server.status()["waiting"] == 1)
        model.pass_on(2)
        assert not first.done()
        model.pass_on(3)
        assert first.result() == "aaa"
        assert second.result() == "aa"
        assert [length for length, _ in model.calls] == [model.calls[0][0] + n for n in (0, 1, 2, 0, 1)]


@pytest.mark.parametrize("stream", [True, False], ids=["in a stream", "waiting for the whole"])
def test_a_caller_who_goes_makes_room_for_the_next(tmp_path: Path, stream: bool) -> None:
    with crowded(tmp_path) as (server, model, _):
        caller = server.connect()
        body = b'{"prompt": "hello", "max_tokens": 1000, "stream": %s}' % (b"true" if stream else b"false")
        caller.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        model.wait_for_a_pass()
        model.pass_on()
        if stream:
            received = b""
            while b'"text":"a"' not in received:
                received += caller.recv(4096)
        model.wait_for_a_pass()
        caller.close()
        # Each pass may be the last before the server has noticed.
        passes = 0
        while server.server.status()["running"]:
            model.pass_on()
            passes += 1
            assert passes < 900
            time.sleep(0.01)
        model.pass_on(1000)
        assert ask(server, 2) == "aa"


def test_a_caller_who_goes_leaves_the_queue(tmp_path: Path) -> None:
    with crowded(tmp_path) as (server, model, pool):
        first = pool.submit(ask, server, 2)
        model.wait_for_a_pass()
        impatient = server.openai().with_options(timeout=0.3)
        with pytest.raises(openai.APITimeoutError), impatient:
            impatient.completions.create(model="fake", prompt="hello")
        until(lambda: server.server.status()["waiting"] == 0)
        model.pass_on(2)
        assert first.result() == "aa"
        until(lambda: not server.server.status()["running"])
        assert len(model.calls) == 2


def test_a_client_that_is_killed_makes_room_for_the_next(tmp_path: Path) -> None:
    with crowded(tmp_path) as (server, model, _):
        script = (
            "import http.client, json, sys\n"
            "client = http.client.HTTPConnection(sys.argv[1])\n"
            "body = json.dumps({'prompt': 'hello', 'max_tokens': 1000, 'stream': True})\n"
            "client.request('POST', '/v1/completions', body, {'Content-Type': 'application/json'})\n"
            "answer = client.getresponse()\n"
            "while line := answer.readline():\n"
            "    print(line, flush=True)\n"
        )
        command = [sys.executable, "-c", script, server.url.removeprefix("http://")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
            model.wait_for_a_pass()
            model.pass_on()
            assert client.stdout
            assert b'"text":"a"' in client.stdout.readline()
            client.kill()
        passes = 0
        while server.server.status()["running"]:
            model.pass_on()
            passes += 1
            assert passes < 900
            time.sleep(0.01)
        model.pass_on(1000)
        assert ask(server, 2) == "aa"


def test_callers_take_turns(tmp_path: Path) -> None:
    """Each machine in turn, whoever asked for more before. A new `user` in each request changes nothing."""
    ends: list[str] = []
    with crowded(tmp_path) as (server, model, pool), server.http() as tcp, server.unix() as unix:

        def ask_as(caller: str) -> None:
            client = tcp if caller == "greedy" else unix
            body = {"prompt": "hello", "max_tokens": 1, "user": secrets.token_hex()}
            assert client.post("/v1/completions", json=body).is_success
            ends.append(caller)

        for count, user in enumerate(["greedy", "greedy", "greedy", "modest"]):
            pool.submit(ask_as, user)
            if count == 0:
                model.wait_for_a_pass()
            until(lambda count=count: server.server.status()["waiting"] == count)  # type: ignore[misc]
        for count in range(4):
            model.pass_on()
            until(lambda count=count: len(ends) > count)  # type: ignore[misc]
    assert ends == ["greedy", "modest", "greedy", "greedy"]


def test_whoever_waits_is_told_how_many_come_before(tmp_path: Path) -> None:
    """A stream at once and whenever it changes, in comments that OpenAI's client skips; all in a header."""
    asked: dict[str, Any] = {"model": "fake", "prompt": "hello", "max_tokens": 1}
    with crowded(tmp_path) as (server, model, pool), server.openai() as client, server.http() as http:
        first = pool.submit(client.completions.with_raw_response.create, **asked)
        model.wait_for_a_pass()
        second = pool.submit(client.completions.with_raw_response.create, **asked)
        until(lambda: server.server.status()["waiting"] == 1)
        third = client.completions.with_raw_response.create(**asked, stream=True)
        with http.stream("POST", "/v1/completions", json=asked | {"stream": True}) as fourth:
            lines = fourth.iter_lines()
            assert [next(lines), next(lines)] == [": waiting for 3 other answers", ""]
            model.pass_on()
            assert [next(lines), next(lines)] == [": waiting for 2 other answers", ""]
            model.pass_on(3)
            rest = [line for line in lines if line]
        assert rest[0] == ": waiting for 1 other answer"
        assert [line.partition(":")[0] for line in rest[1:]] == ["data"] * 3
        answers = [first.result(), second.result(), third, fourth]
        assert [answer.headers["x-specgen-queued"] for answer in answers] == ["0", "1", "2", "3"]
        assert "".join(chunk.choices[0].text for chunk in third.parse()) == "a"
        assert first.result().parse().choices[0].text == second.result().parse().choices[0].text == "a"


def test_what_is_wrong_with_a_stream_has_a_status_unless_it_waited(tmp_path: Path) -> None:
    wrong: dict[str, Any] = {"model": "fake", "prompt": "x" * 5000, "stream": True}
    with crowded(tmp_path) as (server, model, pool), server.openai() as client:
        with pytest.raises(openai.BadRequestError, match="the prompt has"):
            client.completions.create(**wrong)
        first = pool.submit(ask, server, 1)
        model.wait_for_a_pass()
        with pytest.raises(openai.BadRequestError, match="n is not supported"):
            client.completions.create(**wrong, n=2)
        stream = client.completions.create(**wrong)
        model.pass_on()
        with pytest.raises(openai.APIError, match="the prompt has") as caught:
            list(stream)
        assert (type(caught.value), caught.value.code) == (openai.APIError, "context_length_exceeded")
        assert first.result() == "a"


@pytest.mark.parametrize("stream", [True, False])
def test_a_full_queue_refuses_and_says_when_to_come_back(tmp_path: Path, stream: bool) -> None:
    with crowded(tmp_path, limits=RequestLimits(waiting=1)) as (server, model, pool):
        answers = [pool.submit(ask, server, 2)]
        model.wait_for_a_pass()
        answers.append(pool.submit(ask, server, 2))
        until(lambda: server.server.status()["waiting"] == 1)
        with server.openai() as client, pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(model="fake", prompt="hello", stream=stream)
        assert caught.value.status_code == 503
        assert caught.value.code == "queue_full"
        assert int(caught.value.response.headers["retry-after"]) >= 1
        model.pass_on(4)
        assert [answer.result() for answer in answers] == ["aa", "aa"]


def test_a_fault_in_one_answer_is_told_and_spares_the_next(tmp_path: Path) -> None:
    with crowded(tmp_path, opened=True) as (server, model, _):
        forward = model.forward
        model.forward = lambda *_, **__: 1 / 0  # type: ignore[assignment,method-assign]
        with server.openai() as client, pytest.raises(openai.InternalServerError, match="ZeroDivisionError"):
            client.completions.create(model="fake", prompt="hello")
        assert server.notices == ["unexpected ZeroDivisionError in an answer: division by zero"]
        model.forward = forward  # type: ignore[method-assign]
        assert ask(server, 2) == "aa"


def test_none_is_lost_of_many(tmp_path: Path) -> None:
    with crowded(tmp_path, opened=True) as (server, _, pool):

        def several(_: int) -> list[str]:
            with server.openai() as client:
                made = client.completions.create
                return [made(model="fake", prompt="hello", max_tokens=8).choices[0].text for _ in range(10)]

        assert list(pool.map(several, range(8))) == [["a" * 8] * 10] * 8
        assert server.server.status()["requests"] == 80


def test_the_socket_answers_like_http(tmp_path: Path) -> None:
    with crowded(tmp_path, opened=True) as (server, _, _), server.unix() as socket, server.http() as http:
        asked = ASK | {"max_tokens": 3}
        answers = [client.post("/v1/chat/completions", json=asked).json()["choices"] for client in (socket, http)]
        assert answers[0] == answers[1]
        assert answers[0][0]["message"]["content"] == "aaa"
        assert socket.get("/specgen/status").json()["requests"] == 2
        assert http.get("/specgen/status").status_code == http.post("/specgen/stop", json={}).status_code == 404
        assert server.thread.is_alive()


def test_an_answer_that_runs_is_ended_with_the_server(tmp_path: Path) -> None:
    with crowded(tmp_path, limits=RequestLimits(stop_s=0.2)) as (server, model, pool):
        with server.openai() as client:
            stream = client.completions.create(model="fake", prompt="hello", max_tokens=1000, stream=True)
            model.wait_for_a_pass()
            waiting = pool.submit(ask, server, 2)
            until(lambda: server.server.status()["waiting"] == 1)
            server.server.stop()
            until(waiting.done)
            with pytest.raises(openai.APIStatusError, match="the server is ending"):
                waiting.result()
            feeding = threading.Thread(target=_feed, args=(model, server))
            feeding.start()
            with pytest.raises(openai.APIError, match="the server is ending"):
                for _ in stream:
                    pass
            feeding.join(LONG)
        server.thread.join(LONG)
        assert not server.thread.is_alive()


def _feed(model: Gated, server: Running) -> None:
    while server.server.status()["running"]:
        model.pass_on()
        time.sleep(0.01)


def test_an_answer_that_ends_in_time_is_whole(tmp_path: Path) -> None:
    with crowded(tmp_path) as (server, model, pool):
        answer = pool.submit(ask, server, 3)
        model.wait_for_a_pass()
        server.server.stop()
        model.pass_on(3)
        assert answer.result() == "aaa"
        server.thread.join(LONG)
        assert not server.thread.is_alive()


def test_a_pass_that_does_not_end_does_not_keep_the_server(tmp_path: Path) -> None:
    with crowded(tmp_path, limits=RequestLimits(stop_s=0.1, last_s=0.1)) as (server, model, pool):
        answer = pool.submit(ask, server, 3)
        model.wait_for_a_pass()
        server.server.stop()
        server.thread.join(LONG)
        assert not server.thread.is_alive()
        with pytest.raises(openai.InternalServerError, match="the server is ending"):
            answer.result()
        model.pass_on(10)
