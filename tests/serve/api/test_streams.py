"""Streams that would be silent: while a model thinks, reads or is loaded."""

import json
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from specgen.core.events import Event, Progress, Span, Started, Step
from specgen.serve.api.http import RequestLimits
from specgen.session.pair import Pair
from specgen.session.session import Session
from tests.serve.running import ASK, LONG, gated, running

CHAT = "/v1/chat/completions"


def chunks(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def test_thinking_is_streamed_beside_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, _ = gated(tmp_path, opened=True)
    run = Session.run

    def thinking(self: Session, *arguments: Any, **named: Any) -> Generator[Event, None, None]:
        for event in run(self, *arguments, **named):
            if isinstance(event, Started):
                yield event
                yield Step((1,), (Span("so ", "bonus", "thinking"),))
                yield Step((1,), (Span("it is", "bonus", "thinking"),))
            else:
                yield event

    monkeypatch.setattr(Session, "run", thinking)
    with running(session, tmp_path) as server, server.http() as client:
        whole = client.post(CHAT, json=ASK | {"max_tokens": 2}).json()["choices"][0]["message"]
        assert (whole["reasoning_content"], whole["content"]) == ("so it is", "aa")
        deltas = [
            chunk["choices"][0]["delta"]
            for chunk in chunks(client.post(CHAT, json=ASK | {"max_tokens": 2, "stream": True}).text)
        ]
        assert [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta] == ["so ", "it is"]
        assert "".join(delta.get("content", "") for delta in deltas) == "aa"


def test_a_stream_that_says_nothing_gets_comments(tmp_path: Path) -> None:
    session, model = gated(tmp_path)
    limits = RequestLimits(comment_s=0.05)
    body = ASK | {"max_tokens": 1, "stream": True}
    with (
        running(session, tmp_path, limits=limits) as server,
        server.http() as client,
        client.stream("POST", CHAT, json=body) as answer,
    ):
        lines = answer.iter_lines()
        while next(lines) != ": waiting":
            pass
        model.pass_on()
        assert list(lines)[-2:] == ["data: [DONE]", ""]


def test_a_stream_begins_while_the_pair_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specgen.serve.api.app._SILENT_S", 0.05)
    session, _ = gated(tmp_path, opened=True)
    goes_on = threading.Event()

    def opening(*_: object) -> Generator[Event, None, Pair]:
        while not goes_on.wait(0.01):
            yield Progress("loading fake")
        return session.pair

    body = ASK | {"max_tokens": 1, "stream": True}
    with (
        running(session, tmp_path, opening=opening, wait=False) as server,
        server.http() as client,
        client.stream("POST", CHAT, json=body, timeout=LONG) as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines).startswith(": ")
        goes_on.set()
        assert list(lines)[-2:] == ["data: [DONE]", ""]
