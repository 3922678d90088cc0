"""Requests that nobody means well with: each is refused, and the next caller is answered."""

import json
import socket
from collections.abc import Iterator

import pytest

from specgen.serve.api.http import RequestLimits
from tests.serve.running import ASK, Running, gated, running

LIMITS = RequestLimits(
    body=10_000, head=4096, head_s=0.3, body_s=0.3, stalled_s=0.3, connections=20, idle_connection_s=1
)
CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("serve")
    session, _ = gated(folder, opened=True)
    with running(session, folder, limits=LIMITS) as running_server:
        yield running_server


@pytest.fixture(autouse=True)
def still_answers(server: Running) -> Iterator[None]:
    yield
    with server.http() as client:
        assert client.post(CHAT, json=ASK | {"max_tokens": 2}).json()["choices"][0]["message"]["content"] == "aa"
    assert server.notices == []


def test_every_kind_of_bad_body_is_told_in_words(server: Running) -> None:
    deep = b'{"metadata": ' + b"[" * 4000 + b"]" * 4000 + b"}"
    bodies = {
        b"": "the body is not JSON",
        b"{": "the body is not JSON",
        b"[1]": "the body",
        b"null": "the body",
        b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}': "the body is not JSON",
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}': "the body is not JSON",
        b'{"messages": [{"role": "user", "content": "hi"}], "temperature": NaN}': "temperature",
        b'{"messages": [{"role": "user", "content": "hi"}], "temperature": 1e999}': "temperature",
        b'{"messages": [{"role": "user", "content": "hi"}], "seed": %s}' % (b"9" * 4000): "seed",
        b'{"messages": [{"role": "user", "content": "hi"}], "max_tokens": true}': "max_tokens",
        b'{"messages": "hi"}': "messages",
        deep: "the body is not JSON: recursion limit",
    }
    with server.http() as client:
        for body, words in bodies.items():
            answer = client.post(CHAT, content=body, headers=JSON)
            error = answer.json()["error"]
            assert answer.status_code == 400, body[:80]
            assert error["type"] == "invalid_request_error"
            assert words in error["message"], error


def test_a_large_body_is_refused_whether_or_not_it_says_how_large_it_is(server: Running) -> None:
    large = json.dumps(ASK | {"user": "x" * 20_000}).encode()
    with server.http() as client:
        assert client.post(CHAT, content=large, headers=JSON).json()["error"]["code"] == "body_too_large"
    with server.http() as client:
        chunks = (large[at : at + 1000] for at in range(0, len(large), 1000))
        assert client.post(CHAT, content=chunks, headers=JSON).status_code == 413


def rest(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    received = b""
    try:
        while piece := connection.recv(4096):
            received += piece
    except ConnectionResetError:
        pass
    return received


def test_a_body_that_never_ends_is_given_up(server: Running) -> None:
    with server.connect() as slow:
        slow.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b'Content-Length: 1000\r\n\r\n{"prompt'
        )
        assert b"408 Request Timeout" in rest(slow)


def test_a_head_that_never_ends_is_cut(server: Running) -> None:
    for head in (b"", b"GET /health HTTP/1.1\r\nHost: local"):
        with server.connect() as slow:
            slow.sendall(head)
            assert rest(slow) == b""


def test_a_head_that_never_ends_is_cut_after_a_good_one_too(server: Running) -> None:
    with server.connect() as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b""
        while b'{"status":"ok"}' not in received:
            received += slow.recv(4096)
        slow.sendall(b"GET /heal")
        assert rest(slow) == b""


def test_a_caller_who_takes_nothing_is_cut(server: Running) -> None:
    with server.connect() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # Requests in a row whose answers together no buffer of the system holds.
        request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            _send_for_ever(lazy, request * 100)


def _send_for_ever(connection: socket.socket, what: bytes) -> None:
    while True:
        connection.sendall(what)


def test_what_is_no_http_is_refused(server: Running) -> None:
    for noise in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"no such thing\r\n\r\n", b"x" * 5000):
        with server.connect() as other:
            other.sendall(noise)
            assert b"400 Bad Request" in rest(other)


def test_more_connections_than_there_may_be_are_refused(server: Running) -> None:
    several = [server.connect() for _ in range(LIMITS.connections)]
    try:
        with server.connect() as one_more:
            one_more.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"503 Service Unavailable" in one_more.recv(4096)
    finally:
        for connection in several:
            connection.close()


def test_unknown_paths_and_methods(server: Running) -> None:
    with server.http() as client:
        assert client.get("/v2/else").json()["error"]["message"] == "GET /v2/else: Not Found"
        assert client.get(CHAT).status_code == 405
        assert client.post("/v1/embeddings", json={}).status_code == 404


def test_a_page_of_another_site_gets_nothing(server: Running) -> None:
    """A name that was pointed here, or a form that a browser sends without asking."""
    body = json.dumps(ASK).encode()
    with server.http() as client:
        for host in ("evil.example", "localhost.evil.example", "evil.example:80", "", "[::1"):
            assert client.get("/v1/models", headers={"host": host}).status_code == 403, host
        for host in ("localhost", "LOCALHOST:1234", "127.0.0.1", "[::1]:80"):
            assert client.get("/v1/models", headers={"host": host}).status_code == 200, host
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            assert client.post(CHAT, content=body, headers={"content-type": kind}).status_code == 415, kind
        named = json.dumps(ASK | {"max_tokens": 1}).encode()
        assert client.post(CHAT, content=named, headers={"content-type": "application/json; charset=utf-8"}).is_success
