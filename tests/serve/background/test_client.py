"""The client of the background process: its events, and its fallback to this process."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from specgen.core.errors import UsageError
from specgen.core.events import Event, Failed, Finished, Progress, Started, Step
from specgen.core.types import Message, SamplingChoice
from specgen.serve.background.client import BackgroundSession
from specgen.serve.background.connection import Connection
from specgen.serve.background.fingerprint import Fingerprint
from specgen.serve.background.messages import Call, GenerationRequest, line, plain
from specgen.serve.background.replay import ShownAnswer
from specgen.session.session import Session
from tests.fakes import Speaker, encode, fake_session, oracle, steps
from tests.serve.asking import OPTIONS, OWN, warm, words
from tests.serve.running import LONG, gated, running, until

ANOTHER = "another version or environment of specgen runs in the background: specgen stop ends it; going on without it"

pytestmark = pytest.mark.usefixtures("fingerprint")

TEXT = "the quick brown fox jumps over the lazy dog, and sleeps"


def without_times(events: Iterator[Event]) -> list[Event]:
    kept: list[Event] = []
    for event in events:
        if isinstance(event, Step):
            kept.append(replace(event, draft_s=0.0, verify_s=0.0))
        elif isinstance(event, Finished):
            stats = replace(event.stats, draft_s=0.0, verify_s=0.0, elapsed_s=0.0, time_to_first_token_s=0.0)
            kept.append(replace(event, stats=replace(stats, one_token_s=())))
        elif not isinstance(event, Progress):
            kept.append(event)
    return kept


def test_the_events_are_those_of_a_session(tmp_path: Path) -> None:
    session, _ = gated(tmp_path, opened=True)
    wanted: dict[str, Any] = {"max_new_tokens": 5, "system": "be brief", "sampling": SamplingChoice(seed=1)}
    expected = without_times(session.generate("hello", **wanted))
    with running(session, tmp_path, fingerprint=OWN), warm() as caller:
        for _ in range(2):
            assert without_times(caller.generate("hello", **wanted)) == expected
        conversation = [Message("user", "hello"), Message("assistant", "a")]
        started = next(
            each
            for each in caller.continue_conversation(conversation, "again", max_new_tokens=1)
            if type(each) is Started
        )
        assert started.messages == (*conversation, Message("user", "again"))
        *_, last = caller.generate("hello", stop=[""])
        assert isinstance(last, Failed)
        assert (type(last.error), last.error.hint) == (UsageError, "leave it out")
        list(caller.open())


def test_an_interrupt_ends_the_answer_after_its_round(tmp_path: Path) -> None:
    session, model = gated(tmp_path)
    with running(session, tmp_path, fingerprint=OWN), warm() as caller:
        events = caller.generate("hello")
        model.pass_on()
        seen = next(event for event in events if isinstance(event, Step))
        caller.stop()
        model.pass_on()
        *_, last = events
        assert isinstance(last, Finished)
        assert (last.reason, last.text) == ("interrupted", seen.text * 2)


def test_a_caller_who_goes_away_leaves_the_engine_to_the_next(tmp_path: Path) -> None:
    session, model = gated(tmp_path)
    with running(session, tmp_path, fingerprint=OWN) as server:
        with warm() as caller:
            model.pass_on()
            next(event for event in caller.generate("hello") if isinstance(event, Step))

        def ended() -> bool:
            model.pass_on()  # each may be the last before the server has noticed
            return not server.server.pool.running

        until(ended)
        with warm() as other:
            model.pass_on(1)
            assert words(other.generate("hello", max_new_tokens=1))[0] == "a"
        assert server.server.pool.running == 0


@pytest.mark.parametrize(
    "its",
    [
        replace(OWN, environment="another"),
        replace(OWN, location="there"),
        replace(OWN, version="10.0"),
        replace(OWN, changed=6),
    ],
)
def test_another_environment_and_newer_code_are_left_alone(here: None, tmp_path: Path, its: Fingerprint) -> None:
    session, _ = gated(tmp_path)
    with running(session, tmp_path, fingerprint=its, background=True) as server:
        with warm() as caller:
            assert words(caller.generate("hello", max_new_tokens=2)) == ("aa", [ANOTHER])
        assert server.server.pool.requests == 0
        assert not server.server._asked_to_stop.is_set()


@pytest.mark.parametrize("its", [replace(OWN, version="1.9"), replace(OWN, changed=4)])
def test_a_newer_specgen_replaces_an_older_one_which_ends_its_answer_first(
    here: None, tmp_path: Path, its: Fingerprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, model = gated(tmp_path)
    with running(session, tmp_path, fingerprint=its, background=True) as server:
        with monkeypatch.context() as patch, warm() as older:
            patch.setattr("specgen.serve.background.client.Fingerprint.own", lambda: its)
            events = older.generate("hello", max_new_tokens=3)
            model.pass_on()
            next(event for event in events if isinstance(event, Step))
            patch.undo()
            patch.setattr("specgen.serve.background.launcher._ENDS_S", 0.1)
            patch.setattr(
                "specgen.serve.background.client.BackgroundSession._local_session",
                lambda _: gated(tmp_path, opened=True)[0],
            )
            patch.setattr("specgen.serve.background.launcher.start", lambda: None)
            patch.setattr("specgen.serve.background.client.Fingerprint.own", lambda: OWN)
            with warm() as newer:
                assert words(newer.generate("hello", max_new_tokens=2)) == ("aa", [])
            model.pass_on(2)
            assert words(events) == ("aaa", [])
        server.thread.join(LONG)
        assert not server.thread.is_alive()


def test_a_server_in_the_foreground_is_not_replaced(here: None, tmp_path: Path) -> None:
    session, _ = gated(tmp_path)
    with running(session, tmp_path, fingerprint=replace(OWN, version="1.0")) as server:
        with warm() as caller:
            assert words(caller.generate("hello", max_new_tokens=2)) == ("aa", [ANOTHER])
        assert not server.server._asked_to_stop.is_set()


def test_who_asks_says_how_long_it_stays(tmp_path: Path) -> None:
    session, _ = gated(tmp_path, opened=True)
    with running(session, tmp_path, fingerprint=OWN, background=True) as server:
        with warm(keep_alive_s=0.3) as caller:
            words(caller.generate("hello", max_new_tokens=1))
        server.thread.join(LONG)
        assert not server.thread.is_alive()


@pytest.fixture
def path(runtime: Path) -> Path:
    runtime.mkdir()
    return runtime / "serve.sock"


def test_nobody_who_answers_is_done_without(here: None, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket of a killed server, of one that does not answer, and of another user."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        with warm() as caller:
            assert words(caller.generate("hello", max_new_tokens=2)) == ("aa", [])
        other.listen()
        monkeypatch.setattr("specgen.serve.background.launcher._patience", lambda: 0.1)
        with warm() as caller:
            text, (notice,) = words(caller.generate("hello", max_new_tokens=2))
            assert text == "aa"
            assert notice.startswith("the background process does not answer")
        monkeypatch.setattr("specgen.serve.background.connection.is_owned", lambda _: False)
        with warm() as caller:
            assert words(caller.generate("hello", max_new_tokens=2)) == ("aa", [])


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nno\n", b"nonsense\r\n\r\n"])
def test_what_breaks_off_costs_a_line(here: None, path: Path, sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    # A process that ends at each request is waited for, so the wait is short here.
    monkeypatch.setattr("specgen.serve.background.launcher._patience", lambda: 1.0)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with other.accept()[0] as accepted:
                        accepted.recv(1 << 16)
                        accepted.sendall(sent)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with warm() as caller:
            text, notices = words(caller.generate("hello", max_new_tokens=2))
        assert text == "aa"
        assert len(notices) <= 1


def speaking(folder: Path, script: str = TEXT) -> Session:
    ids = encode(script)
    length = len(encode("hello"))
    return fake_session(Speaker(ids, length), oracle(ids, length), folder=folder, k=3)


@pytest.mark.parametrize("breaks", range(1, 8))
def test_an_answer_that_broke_off_goes_on_where_it_was(tmp_path: Path, breaks: int) -> None:
    """The continuation does not depend on the draft or on the rounds so far."""
    whole = list(speaking(tmp_path).generate("hello", raw=True, max_new_tokens=20))
    shown = ShownAnswer()
    seen = [event for event in whole if isinstance(event, Step)][:breaks]
    for event in (whole[0], *seen):
        shown.add(event)
    other = fake_session(Speaker(encode(TEXT), len(encode("hello"))), folder=tmp_path, k=0)
    rest = list(shown.rest(other.generate("hello", raw=True, max_new_tokens=20)))
    assert not any(isinstance(event, Started | Progress) for event in rest)
    everything = [*seen, *steps(rest)]
    expected = steps(whole)
    assert [token for step in everything for token in step.tokens] == [
        token for step in expected for token in step.tokens
    ]
    assert "".join(step.text for step in everything) == "".join(step.text for step in expected)
    assert isinstance(rest[-1], Finished)
    assert isinstance(whole[-1], Finished)
    assert rest[-1].text == whole[-1].text


def test_another_answer_is_no_rest_of_it(tmp_path: Path) -> None:
    shown = ShownAnswer()
    for event in speaking(tmp_path).generate("hello", raw=True, max_new_tokens=5):
        shown.add(event)
    *_, last = shown.rest(speaking(tmp_path, "quite another text").generate("hello", raw=True, max_new_tokens=5))
    assert isinstance(last, Failed)
    assert "cannot be continued" in last.error.message


def test_a_model_is_named_as_it_is_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("m", "stories", "auto", "m/x@y"):
        (tmp_path / folder).mkdir()
    for given, sent in {
        "./m": f"{tmp_path}/m",
        "m/": f"{tmp_path}/m",
        "m/x@y": f"{tmp_path}/m/x@y",
        "./stories": f"{tmp_path}/stories",
        "stories": "stories",
        "auto": "auto",
        "org/name": "org/name",
        "./none": "./none",
    }.items():
        session = BackgroundSession(given, given, OPTIONS, LONG)
        assert (session._target, session._draft) == (sent, sent)


def test_a_body_that_is_no_call_is_refused(tmp_path: Path) -> None:
    session, _ = gated(tmp_path)
    call = plain(
        Call(
            "1",
            "x",
            OWN,
            "fake",
            "none",
            OPTIONS,
            GenerationRequest("hello"),
            notices_shown=False,
            former_draft=None,
            keep_alive_s=1.0,
        )
    )
    wrong: list[Any] = [{}, [], call | {"more": 1}, call | {"target": 1}, {**call, "request": {"prompt": None}}]
    with running(session, tmp_path, fingerprint=OWN) as server, Connection(server.path) as channel:
        for body in (b"{", *map(line, wrong)):
            assert channel.send("ask", body, LONG) == 400
            assert json.dumps(list(channel.lines()))
        with server.http() as http:
            assert http.post("/specgen/ask", json=call).status_code == 404
