import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from specgen.core.errors import BadFile, OutOfMemory
from specgen.core.events import Event, Failed, Finished, Notice, Progress, Span, Step
from specgen.render import make_renderer
from specgen.render.trace import Trace
from tests.render.samples import STARTED, STATS, run
from tests.render.streams import Pipe

FULL = Path("/dev/full")


def plainly(out: Pipe) -> Any:
    return make_renderer(stdout=out, stderr=Pipe(), json=False, stream=True, quiet=False, stats=False)


def show_all(path: Path, out: Pipe, events: Iterable[Event], failure: Exception | None = None) -> None:
    with Trace(path) as trace:
        renderer = trace.along(plainly(out))
        for event in events:
            renderer.show(event)
        renderer.close()
        if failure:
            raise failure


def traced(path: Path, *events: Event) -> bytes:
    """The bytes in a pipe for `events` that are traced to `path`."""
    show_all(path, out := Pipe(), events)
    return out.written


def objects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def test_every_round_is_a_line(tmp_path: Path) -> None:
    step = Step(
        (5, 6, 7), (Span("é\n", "draft"),), 4, 2, 0.5, 0.25, (5, 6, 8, 9), ("lookup", "lookup", "draft", "draft")
    )
    rest = Step((), (Span("held", "bonus"),))
    path = tmp_path / "trace"
    shown = traced(path, Progress("x"), STARTED, step, Notice("no draft"), rest, Finished("end", "", STATS))
    assert shown == "é\nheld".encode()
    started, first, notice, finished = objects(path)
    assert {line["schema"] for line in objects(path)} == {1}
    assert (started["type"], started["answer"], started["drafter"], started["prompt_tokens"]) == (
        "started",
        1,
        "model",
        12,
    )
    elapsed = first.pop("elapsed_s")
    assert elapsed >= 0
    assert first == {
        "type": "round",
        "schema": 1,
        "answer": 1,
        "round": 1,
        "proposed": [
            {"source": "lookup", "token": 5},
            {"source": "lookup", "token": 6},
            {"source": "draft", "token": 8},
            {"source": "draft", "token": 9},
        ],
        "accepted": 2,
        "picked": 7,
        "tokens": [5, 6, 7],
        "text": "é\n",
        "draft_s": 0.5,
        "verify_s": 0.25,
    }
    assert (notice["type"], notice["text"]) == ("notice", "no draft")
    assert (finished["type"], finished["reason"]) == ("finished", "end")


def test_a_round_that_was_cut_inside_its_accepted_run_picked_nothing(tmp_path: Path) -> None:
    traced(
        path := tmp_path / "trace",
        STARTED,
        Step((5, 6), (), 3, 2, drafted_tokens=(5, 6, 7), drafted_sources=("draft",) * 3),
    )
    assert objects(path)[1]["picked"] is None


def test_answers_and_their_rounds_are_counted(tmp_path: Path) -> None:
    traced(path := tmp_path / "trace", *run("one two"), *run("x"), STARTED, Failed(OutOfMemory("full")))
    places = [(line["type"], line["answer"], line.get("round")) for line in objects(path)]
    assert places[:3] == [("started", 1, None), ("round", 1, 1), ("finished", 1, None)]
    assert places[3:] == [
        ("started", 2, None),
        ("round", 2, 1),
        ("finished", 2, None),
        ("started", 3, None),
        ("failed", 3, None),
    ]


def test_a_round_is_in_the_file_at_once(tmp_path: Path) -> None:
    with Trace(path := tmp_path / "trace") as trace:
        trace.write(STARTED)
        assert len(objects(path)) == 1


def test_what_the_file_holds_stays(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text('{"mine": 1}\n')
    traced(path, *run("x"))
    assert objects(path)[0] == {"mine": 1}
    assert len(objects(path)) == 4


def test_no_trace_is_no_detour() -> None:
    with Trace(None) as trace:
        renderer = plainly(Pipe())
        assert trace.along(renderer) is renderer


def test_a_file_that_cannot_be_opened_is_said_at_once(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "such", Path("~nobody-of-that-name/x")):
        with pytest.raises(BadFile, match="cannot write a trace to"):
            Trace(path)


@pytest.mark.skipif(not FULL.exists(), reason="no full device here")
def test_a_full_disk_costs_the_trace_and_not_the_text() -> None:
    out = Pipe()
    with pytest.raises(BadFile, match="the trace in /dev/full is incomplete: No space left"):
        show_all(FULL, out, run("all of it"))
    assert out.written == b"all of it"


@pytest.mark.skipif(not FULL.exists(), reason="no full device here")
def test_a_full_disk_does_not_hide_why_an_answer_failed() -> None:
    with pytest.raises(OutOfMemory):
        show_all(FULL, Pipe(), [STARTED], OutOfMemory("full"))
