import os
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from specgen.core.errors import OutOfMemory
from specgen.core.events import Event, Failed, LoadedModel, Notice, Progress, Renderer, Span, Step, Suspended
from specgen.render import make_renderer
from specgen.render.summary import summary
from specgen.render.terminal import sanitize
from specgen.render.text import legend
from tests.render.samples import STARTED, run, step
from tests.render.streams import Pipe, Screen, Terminal

Terminals = Callable[..., tuple[Terminal, Terminal]]

PROSE = "The quick brown fox jumps over the lazy dog, again and again. " * 9
TEXTS = {
    "short": "Hello.",
    "paragraph": PROSE,
    "lines": "one\ntwo\n\nfour\n",
    "longer than the screen": "".join(f"line {number}\n" for number in range(60)),
    "to the margin at 40": "x" * 40,
    "to the margin at 80": "x" * 80 + "\n" + "y" * 80,
    "wide": "漢字仮名交じり文、" * 20,
    "wide over the margin": "a" + "漢" * 45,
    "tabs": "a\tb\t\tc\n\t\t\t\t\t\t\t\t\t\t\tfar" * 3,
    "emoji": "a 👩‍👩‍👧 and e\u0301 ✅ " * 12,
    "escapes": "\x1b[2J\x1b[H\x1b]0;title\x07 \x9b1m \x0b\x0c\x08 over\rwrite\r\n" * 3,
    "nothing": "",
}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock with one second between events, so that the live line is always redrawn."""
    monkeypatch.setattr("specgen.render.live.monotonic", count().__next__)


def make(out: Pipe | Terminal, err: Pipe | Terminal, **flags: bool | str) -> Renderer:
    settings = {"json": False, "stream": True, "quiet": False, "stats": False} | flags
    return make_renderer(stdout=out, stderr=err, **settings)  # type: ignore[arg-type]


def show(renderer: Renderer, events: list[Event]) -> None:
    for event in events:
        renderer.show(event)
    renderer.close()


def plainly(text: str, columns: int) -> list[str]:
    """The rows of a terminal that shows only `text`."""
    out = Terminal(Screen(columns, 10))
    out.write(sanitize(text))
    out.flush()
    return out.screen.rows()


def summary_rows(events: list[Event], columns: int) -> list[str]:
    return plainly(summary(STARTED, events[-1], "full", columns), columns)  # type: ignore[arg-type]


@pytest.mark.parametrize("markdown", [False, True], ids=["plain", "markdown"])
@pytest.mark.parametrize("at", range(1, 8))
def test_after_ctrl_z_the_text_goes_on_in_a_new_row_and_nothing_stays_behind(
    terminals: Terminals, at: int, *, markdown: bool
) -> None:
    out, err = terminals(60)
    renderer = make(out, err, markdown=markdown)
    events = run("The **quick** brown fox jumps over the lazy dog", 6)
    for event in events[: 1 + at]:
        renderer.show(event)
    renderer.show(Suspended())
    before = out.screen.rows()
    assert not any("tok" in row for row in before), "the live line is gone"
    err.write("\n[1]+  Stopped\n$ fg\nspecgen\n")
    err.flush()
    show(renderer, events[1 + at :])
    rows = out.screen.rows()
    text = "".join(row + " " for row in rows[: len(before)] + rows[len(before) + 3 :]).partition(" tokens in")[0]
    words = (
        "The quick brown fox jumps over the lazy dog" if markdown else "The **quick** brown fox jumps over the lazy dog"
    )
    assert text.replace(" ", "").startswith(words.replace(" ", ""))


@pytest.mark.parametrize("size", [1, 7, 300])
@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("name", TEXTS)
def test_one_terminal_shows_the_text_and_then_the_summary(
    terminals: Terminals, name: str, columns: int, size: int
) -> None:
    out, err = terminals(columns)
    events = run(TEXTS[name], size)
    show(make(out, err), events)
    assert out.screen.rows() == plainly(sanitize(TEXTS[name]).removesuffix("\n"), columns) + summary_rows(
        events, columns
    )
    assert out.screen.cursor.x == 0


def check_every_step(out: Terminal, renderer: Renderer, text: str, size: int) -> int:
    """Stream `text` and check the screen after every step: the text, and at most the live line below.

    Returns the number of steps with a live line.
    """
    so_far, drawn = "", 0
    for event in run(text, size)[:-1]:
        renderer.show(event)
        so_far += event.text if isinstance(event, Step) else ""
        rows = out.screen.rows()
        expected = plainly(so_far.removesuffix("\r"), out.screen.columns)
        below = rows[len(expected) :]
        assert rows[: len(expected)] == expected
        assert [row for row in below if row] in ([], below[-1:])
        assert all(re.match(r"\d+ (prompt )?token", row) for row in below if row)
        drawn += bool(below)
    renderer.close()
    assert out.screen.rows() == plainly(text, out.screen.columns)
    return drawn


@pytest.mark.parametrize("name", ["paragraph", "longer than the screen", "wide"])
def test_the_live_line_stands_below_the_text_while_it_streams(terminals: Terminals, name: str) -> None:
    out, err = terminals(80)
    drawn = check_every_step(out, make(out, err), TEXTS[name], 7)
    assert drawn > 0.9 * len(TEXTS[name]) / 7
    assert b"token" not in out.sent


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("ab \n\t漢字é…\x1b\r\u0301👩\u200d"), max_size=120), st.integers(1, 9))
@example("x" * 20 + "y", 1)
@example("x" * 19 + "漢" + "y", 1)
def test_the_text_is_intact_after_every_step(terminals: Terminals, text: str, size: int) -> None:
    out, err = terminals(20, 5)
    check_every_step(out, make(out, err), text, size)


def test_after_a_resize_the_live_line_waits_for_the_next_line(
    terminals: Terminals, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = terminals(80)
    renderer = make(out, err)
    for event in (STARTED, step("x" * 30)):
        renderer.show(event)
    out.screen.resize(10, 40)
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((40, 10)))
    renderer.show(step("y"))
    assert out.screen.rows() == ["x" * 30 + "y"]
    renderer.show(step("\nz"))
    assert out.screen.rows() == ["x" * 30 + "y", "z", "9 tokens · 3.0 tok/s"]
    renderer.close()
    assert out.screen.rows() == ["x" * 30 + "y", "z"]


def test_colours_are_dim_figures_and_stay_off_the_text(terminals: Terminals) -> None:
    out, err = terminals()
    show(make(out, err), run("text"))
    assert bytes(out.sent) == b"text\n"
    assert b"\x1b[2m128 tokens" in err.sent


@pytest.mark.parametrize(
    ("environment", "choice", "colored"),
    [
        ({"NO_COLOR": "1"}, "auto", False),
        ({"NO_COLOR": ""}, "auto", True),
        ({"NO_COLOR": "1"}, "always", True),
        ({"FORCE_COLOR": "1"}, "never", False),
        ({"TERM": "dumb"}, "auto", False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, "auto", True),
    ],
)
def test_colour_choices_are_honoured(
    terminals: Terminals, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], choice: str, colored: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    out, err = terminals()
    show(make(out, err, color=choice), [Progress("loading"), *run("text")])
    assert (re.search(rb"\x1b\[[\d;]*m", err.sent) is not None) == colored


def test_a_dumb_terminal_gets_no_cursor_codes(terminals: Terminals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out, err = terminals()
    show(make(out, err), [Progress("loading", 1, 2), *run("te\x1bxt")])
    assert out.sent.decode() == "te␛xt\n"
    assert "\x1b" not in err.sent.decode()
    assert err.sent.startswith(b"128 tokens in 6.5 s")


def test_text_to_a_file_is_exact_and_the_live_line_is_on_the_terminal(terminals: Terminals) -> None:
    out, err = Pipe("latin-1"), terminals()[1]
    text = "é\r\n\x1b[31m漢"
    renderer = make(out, err)
    *events, finished = run(text)
    for event in events:
        renderer.show(event)
    assert [row[:19] for row in err.screen.rows()] == ["6 tokens · 3.0 tok/"]
    renderer.show(finished)
    renderer.close()
    assert out.written == text.encode()
    assert err.screen.rows() == summary_rows([finished], 80)
    assert err.sent.count(b"\x1b[J") == 1  # erased at the end, not at each of the text's newlines


def test_text_to_a_pipe_leaves_its_reader_the_line_it_writes(terminals: Terminals) -> None:
    """As in `specgen run | tee file`, where the reader shows the text on the same terminal a moment later."""
    text = "ab\n\tcd\n\n" * 12 + PROSE
    shown, err = terminals()
    read, write = os.pipe()
    events = run(text)
    with open(write, "w") as out:  # noqa: PTH123
        renderer = make(out, err)  # type: ignore[arg-type]
        for event in events:
            renderer.show(event)
            if isinstance(event, Step):
                shown.buffer.write(os.read(read, 4096))
                shown.flush()
        renderer.close()
    os.close(read)
    assert shown.screen.rows() == plainly(text, 80) + summary_rows(events, 80)


def test_a_terminal_with_stderr_in_a_file(terminals: Terminals) -> None:
    for stats, figures in ((False, b""), (True, b"128 tokens in")):
        out, err = terminals()[0], Pipe()
        show(make(out, err, stats=stats), [Notice("hello"), Progress("loading"), *run("te\x9bxt")])
        assert bytes(out.sent) == b"te\\x9bxt\n"
        assert err.written.startswith(b"specgen: hello\r\n" + figures)
        assert b"\x1b" not in err.written


def test_a_model_name_cannot_drive_the_terminal(terminals: Terminals) -> None:
    out, err = terminals()
    events = run("text")
    events[0] = replace(STARTED, target=LoadedModel("./a\x1b[2Jb"))
    show(make(out, err), events)
    assert out.screen.rows()[-1].startswith("target ./a␛[2Jb")


def test_notices_in_a_file_come_at_once(terminals: Terminals) -> None:
    out, err = terminals()[0], Pipe()
    renderer = make(out, err)
    for event in (STARTED, step("text"), Notice("hello")):
        renderer.show(event)
    assert err.written == b"specgen: hello\r\n"


def test_text_kept_back_comes_at_the_end(terminals: Terminals) -> None:
    out, err = terminals()
    *events, finished = run(PROSE)
    renderer = make(out, err, stream=False)
    for event in events:
        renderer.show(event)
    assert out.sent == b""
    assert len(out.screen.rows()) == 1
    renderer.show(finished)
    assert out.screen.rows() == plainly(PROSE, 80) + summary_rows([finished], 80)


def test_the_live_line_is_not_redrawn_faster_than_it_can_be_read(
    terminals: Terminals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specgen.render.live.monotonic", lambda: 0.0)
    out, err = terminals()
    renderer = make(out, err)
    for event in (STARTED, *(step("a") for _ in range(50))):
        renderer.show(event)
    assert out.screen.rows() == ["a" * 50, "12 prompt tokens"]
    renderer.show(step("\n"))
    assert out.screen.rows()[:2] == ["a" * 50, ""]
    assert out.screen.rows()[2].startswith("153 tokens")
    renderer.close()


def test_quiet_shows_the_text_alone(terminals: Terminals) -> None:
    out, err = terminals()
    show(make(out, err, quiet=True, stats=True), [Progress("loading"), Notice("hello"), *run("text")])
    assert (bytes(out.sent), bytes(err.sent)) == (b"text\n", b"")


def test_notices_wait_for_the_end_of_the_text(terminals: Terminals) -> None:
    out, err = terminals()
    events: list[Event] = [Notice("before"), *run("one two", size=4)]
    events.insert(3, Notice("draft\x1b given up"))
    show(make(out, err), events)
    assert out.screen.rows()[:3] == ["specgen: before", "one two", "specgen: draft␛ given up"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_leaves_the_text_so_far_and_nothing_else(terminals: Terminals, stream: bool) -> None:
    out, err = terminals()
    show(make(out, err, stream=stream), [STARTED, step("half"), Failed(OutOfMemory("full"))])
    assert out.screen.rows() == ["half"]
    assert bytes(out.sent) == b"half\n"


def test_an_interrupt_at_any_moment_leaves_the_terminal_as_it_was(terminals: Terminals) -> None:
    events = [Progress("loading"), Progress("model", 5, 10), *run(PROSE)[:8]]
    for shown in range(len(events) + 1):
        out, err = terminals()
        renderer = make(out, err)
        for event in events[:shown]:
            renderer.show(event)
        renderer.close()
        sent = len(out.sent), len(err.sent)
        renderer.close()
        assert (len(out.sent), len(err.sent)) == sent
        text = "".join(event.text for event in events[:shown] if isinstance(event, Step))
        assert out.screen.rows() == plainly(text, 80)
        assert not out.screen.cursor.hidden
        assert out.screen.cursor.x == 0


def test_progress_during_the_text_is_not_drawn_over_it(terminals: Terminals) -> None:
    out, err = terminals()
    renderer = make(out, err)
    for event in (STARTED, step("text"), Progress("loading")):
        renderer.show(event)
    assert b"loading" not in err.sent
    renderer.close()


def test_the_answers_of_a_chat_follow_each_other(terminals: Terminals) -> None:
    out, err = terminals()
    show(make(out, err, summary="short"), [*run("one"), *run("two\n"), Progress("loading"), *run("three")])
    assert out.screen.rows()[::2] == ["one", "two", "three"]
    assert b"loading" in err.sent
    assert {row[:24] for row in out.screen.rows()[1::2]} == {"128 tokens · 21.0 tok/s "}


def test_colours_tell_sources_and_thinking_apart(terminals: Terminals) -> None:
    spans = (Span("a", "draft"), Span("b", "lookup"), Span("c", "bonus"), Span("d", "corrected"))
    painted = "\x1b[32ma\x1b[0m\x1b[36mb\x1b[0m\x1b[35mc\x1b[0m\x1b[4;33md\x1b[0m"
    for sources, sent in ((True, painted), (False, "abcd")):
        out, err = terminals()
        show(make(out, err, sources=sources), [STARTED, Step((1,), (*spans, Span("e", "draft", "thinking")))])
        assert out.sent.decode() == f"{sent}\x1b[{'2;32' if sources else '2'}me\x1b[0m\n"


def test_the_legend_is_painted_as_the_text_is() -> None:
    assert legend(False) == "draft, lookup, history, forced, corrected, bonus"
    painted = (
        "\x1b[32mdraft\x1b[0m, \x1b[36mlookup\x1b[0m, \x1b[96mhistory\x1b[0m, "
        "\x1b[34mforced\x1b[0m, \x1b[4;33mcorrected\x1b[0m, "
    )
    assert legend(True).startswith(painted)


def test_a_carriage_return_waits_for_its_newline(terminals: Terminals) -> None:
    out, err = terminals()
    show(make(out, err), [STARTED, step("one\r"), step("\ntwo\r"), step("three\r")])
    assert out.sent.decode() == "one\ntwo␍three␍\n"


def test_a_terminal_that_lacks_a_character_is_no_error(terminals: Terminals) -> None:
    out = Terminal(terminals()[0].screen, "ascii")
    show(make(out, Terminal(out.screen, "ascii")), run("naïve"))
    assert out.screen.rows()[0] == "na?ve"


def test_a_device_that_is_no_pipe_gets_the_line_in_place(terminals: Terminals, tmp_path: Path) -> None:
    err = terminals()[1]
    with (tmp_path / "out").open("w") as out:
        renderer = make(out, err)  # type: ignore[arg-type]
        for event in (STARTED, step("some text")):
            renderer.show(event)
        assert err.screen.cursor.y == 0
        assert err.screen.rows()[0].startswith("3 tokens")
        renderer.close()
    assert err.screen.rows() == []
    assert (tmp_path / "out").read_text() == "some text"
