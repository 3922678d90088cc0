import json
from typing import Any

import pytest

from specgen.core.errors import OutOfMemory
from specgen.core.events import Failed, Finished, Notice, Progress, Span, Stats, Step
from specgen.render import make_renderer
from tests.render.samples import STARTED, STATS, run, step
from tests.render.streams import Pipe, Screen, Terminal


def lines(*events: Any, stream: bool = True, quiet: bool = False) -> list[dict[str, Any]]:
    out, err = Pipe("latin-1"), Pipe()
    renderer = make_renderer(stdout=out, stderr=err, json=True, stream=stream, quiet=quiet, stats=True)
    for event in events:
        renderer.show(event)
    renderer.close()
    assert err.written == b""
    return [json.loads(line) for line in out.written.decode("utf-8").splitlines()]


def test_a_run_is_one_object_a_line() -> None:
    objects = lines(Progress("loading"), Notice("hello"), *run("some text\n", size=5))
    assert [line["type"] for line in objects] == ["notice", "started", "step", "step", "finished"]
    assert {line["schema"] for line in objects} == {1}
    assert objects[0]["text"] == "hello"


def test_started_says_what_it_takes_to_repeat_the_run() -> None:
    (started,) = lines(STARTED)
    assert started["target"] == {
        "id": "org/big",
        "revision": "0123456789abcdef",
        "licence": "mit",
        "files": {"model.safetensors": "0" * 64},
    }
    assert started["draft"] == {"id": "org/small", "revision": None, "licence": None, "files": {}}
    assert started["sampling"]["seed"] == 123
    assert started["sampling"]["temperature"] == 0.7
    names = ("drafter", "device", "dtype", "num_draft_tokens", "prompt_tokens")
    assert [started[name] for name in names] == ["model", "cpu", "float32", 4, 12]


def test_a_step_has_its_tokens_and_spans() -> None:
    spans = (Span("a", "draft"), Span("b", "bonus", "thinking"))
    sources = ("draft", "lookup", "draft")
    (line,) = lines(Step((5, 6), spans, 3, accepted=1, draft_s=0.5, verify_s=0.25, drafted_sources=sources))
    assert line == {
        "type": "step",
        "schema": 1,
        "tokens": [5, 6],
        "text": "a",
        "spans": [
            {"text": "a", "source": "draft", "channel": "answer"},
            {"text": "b", "source": "bonus", "channel": "thinking"},
        ],
        "drafted": 3,
        "accepted": 1,
        "drafted_sources": ["draft", "lookup", "draft"],
        "draft_s": 0.5,
        "verify_s": 0.25,
    }


def test_finished_has_the_text_the_models_and_exactly_these_figures() -> None:
    started, line = lines(STARTED, Finished("stop", "all of it", STATS))
    assert (line["reason"], line["text"]) == ("stop", "all of it")
    assert line["models"] == {"target": started["target"], "draft": started["draft"]}
    assert line["stats"] == {
        "prompt_tokens": 12,
        "generated_tokens": 128,
        "rounds": 32,
        "drafted_tokens": 123,
        "accepted_tokens": 96,
        "acceptance_rate": pytest.approx(96 / 123),
        "mean_acceptance_length": 4.0,
        "tokens_per_second": pytest.approx(127 / 6.05),
        "time_to_first_token_s": 0.42,
        "draft_s": 1.0,
        "verify_s": 4.0,
        "other_s": pytest.approx(1.47),
        "elapsed_s": 6.47,
        "speed_up": pytest.approx((0.42 + 127 * 0.0825) / 6.47),
        "speed_up_is_estimate": True,
        "accepted_lengths": [1, 4, 6, 4, 12, 0, 2, 0, 1],
        "drafted_lengths": [0, 0, 1, 9, 14, 0, 5, 0, 1],
        "acceptance_by_position": pytest.approx([29 / 30, 25 / 30, 19 / 29, 0.75, 0.5, 0.5, 1, 1]),
        "by_source": {"draft": {"drafted": 103, "accepted": 79}, "lookup": {"drafted": 20, "accepted": 17}},
    }


def test_a_speed_up_that_nobody_knows_is_null() -> None:
    (line,) = lines(Finished("end", "", Stats()))
    assert (line["stats"]["speed_up"], line["stats"]["by_source"]) == (None, {})


def test_failed_has_what_the_command_line_would_say() -> None:
    (line,) = lines(Failed(OutOfMemory("3 GB do not fit", hint="use a smaller model")))
    assert line == {
        "type": "failed",
        "schema": 1,
        "error": "OutOfMemory",
        "message": "3 GB do not fit",
        "hint": "use a smaller model",
        "exit_code": 8,
    }


def test_any_text_is_one_line_and_comes_back_as_it_was() -> None:
    text = "é漢 \ud800 \u2028\x85\x9b \x1b[31m \r\n \u202e \\u0041"
    (line,) = lines(step(text))
    assert line["text"] == text


def test_text_is_readable_and_cannot_drive_a_terminal() -> None:
    out = Pipe()
    renderer = make_renderer(stdout=out, stderr=Pipe(), json=True, stream=True, quiet=False, stats=False)
    renderer.show(step("é漢\x9b2J\x1b\u202e"))
    assert '"text": "é漢\\u009b2J\\u001b\\u202e"' in out.written.decode()


def test_without_streaming_the_text_comes_in_finished_alone() -> None:
    assert [line["type"] for line in lines(*run("text"), stream=False)] == ["started", "finished"]


def test_progress_is_drawn_on_a_terminal_and_gone_before_the_next_line() -> None:
    for quiet in (False, True):
        out, err = Pipe(), Terminal(Screen(80, 10))
        renderer = make_renderer(stdout=out, stderr=err, json=True, stream=True, quiet=quiet, stats=False)
        renderer.show(Progress("loading"))
        renderer.show(STARTED)
        assert (b"loading" in err.sent) != quiet
        assert err.screen.rows() == []
        assert not err.screen.cursor.hidden
        renderer.close()
