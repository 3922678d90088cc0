"""Streamed Markdown on a terminal: the same for any pieces of text, and no line lost."""

import os
from collections.abc import Sequence
from typing import Any

import pytest

from specgen.core.events import Finished, LoadedModel, Span, Started, Stats, Step
from specgen.core.types import SamplingParams
from specgen.render import make_renderer
from tests.render.streams import Pipe, Screen, Terminal

STARTED = Started(LoadedModel("target"), None, "none", "cpu", "float32", "none", SamplingParams(), None, 3)
TEXT = """# The title

Some **bold text** and *slanted* with `code`, snake_case_name, 2 * 3 = 6 and **kwargs too, wrapped at words alone.
- an item with a [link](https://example.org/x) that goes on over the margin of the screen
1. counted

> quoted words that go on beyond the margin of the terminal and further
---
```python
def f(x):
    return "**raw**"  # a comment that goes on past the margin of it
```
| a | b |
|---|--:|
| 1 | **two** |
| x | 日本語 |

日本語の文章はスペースがないので、どこでも折り返すことができます。そうでしょう。
Emoji 🎉 and **unclosed
"""
AT_40 = """The title

Some bold text and slanted with code,
snake_case_name, 2 * 3 = 6 and **kwargs
too, wrapped at words alone.
• an item with a link
  (https://example.org/x) that goes on
  over the margin of the screen
1. counted

│ quoted words that go on beyond the
│ margin of the terminal and further
───────────────────────────────────────
```python
def f(x):
    return "**raw**"  # a comment that g
oes on past the margin of it
```
a        b
──────────
1      two
x   日本語

日本語の文章はスペースがないので、どこ
でも折り返すことができます。そうでしょ
う。
Emoji 🎉 and **unclosed"""


def show(stdout: Any, stderr: Any, spans: Sequence[Span], **how: Any) -> None:
    """One answer with one step per span."""
    options: dict[str, Any] = {"json": False, "stream": True, "quiet": False, "stats": False, "markdown": True} | how
    renderer = make_renderer(stdout=stdout, stderr=stderr, summary="none", **options)
    renderer.show(STARTED)
    for span in spans:
        renderer.show(Step((1,), (span,)))
    renderer.show(Finished("end", "", Stats()))
    renderer.close()


def cut(text: str, size: int) -> list[Span]:
    return [Span(text[at : at + size], "bonus") for at in range(0, len(text), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40, 10_000])
@pytest.mark.parametrize("lines", [5, 60])
def test_what_is_shown_does_not_depend_on_how_the_text_comes(terminals: Any, size: int, lines: int) -> None:
    """An answer taller than the screen is complete in the scrollback."""
    stdout, stderr = terminals(40, lines)
    show(stdout, stderr, cut(TEXT, size))
    assert "\n".join(stdout.screen.rows()) == AT_40


def test_styles(terminals: Any) -> None:
    stdout, stderr = terminals()
    show(stdout, stderr, cut("**b** *i* `c` ~~s~~ [t](u) x\n", 3))
    cells = [stdout.screen.buffer[0][at] for at in range(20)]
    drawn = "".join(cell.data for cell in cells)
    assert drawn.startswith("b i c s t (u) x")
    assert cells[0].bold
    assert cells[2].italics
    assert cells[4].fg == "cyan"
    assert cells[6].strikethrough
    assert cells[8].underscore
    assert not cells[14].bold


def test_half_a_word_shows_at_once_and_is_drawn_in_place(terminals: Any) -> None:
    """Uncertain text appears as the model wrote it, until its markup replaces it."""
    stdout, stderr = terminals()
    renderer = make_renderer(
        stdout=stdout, stderr=stderr, json=False, stream=True, quiet=True, stats=False, markdown=True
    )
    renderer.show(STARTED)
    renderer.show(Step((1,), (Span("so **bol", "bonus"),)))
    assert stdout.screen.rows() == ["so **bol"]
    renderer.show(Step((1,), (Span("d** an", "bonus"),)))
    renderer.show(Step((1,), (Span("d", "bonus"),)))
    assert stdout.screen.rows() == ["so bold and"]
    renderer.close()
    assert stdout.screen.rows() == ["so bold and"]


@pytest.mark.parametrize("narrow", [30, 55, 90])
def test_a_resize_loses_nothing(terminals: Any, monkeypatch: pytest.MonkeyPatch, narrow: int) -> None:
    stdout, stderr = terminals(60, 60)
    words = [f"word{number}" for number in range(80)]
    renderer = make_renderer(
        stdout=stdout, stderr=stderr, json=False, stream=True, quiet=False, stats=False, markdown=True
    )
    renderer.show(STARTED)
    for at, span in enumerate(cut(" ".join(words), 3)):
        if at == 60:
            monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((narrow, 60)))
            # The screen itself grows or shrinks; what stands beyond a narrower margin is cut off by pyte, so keep it.
            if narrow > 60:
                stdout.screen.resize(60, narrow)
        renderer.show(Step((1,), (span,)))
    renderer.close()
    shown = " ".join(stdout.screen.rows()).split()
    assert [word for word in words if word not in shown] == []


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_without_colours_or_cursor_the_text_is_as_the_model_writes_it(
    terminals: Any, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stdout, stderr = terminals(200, 40)
    show(stdout, stderr, cut(TEXT, 3))
    assert stdout.screen.rows() == TEXT.rstrip("\n").split("\n")
    assert b"\x1b[1m" not in stdout.sent


def test_switched_off_or_painted_the_text_is_as_the_model_writes_it(terminals: Any) -> None:
    for how in ({"markdown": False}, {"sources": True}):
        stdout, stderr = terminals(200, 40)
        show(stdout, stderr, cut(TEXT, 3), **how)
        assert stdout.screen.rows() == TEXT.rstrip("\n").split("\n")


def test_a_pipe_gets_every_byte(terminals: Any) -> None:
    pipe = Pipe()
    _, stderr = terminals()
    show(pipe, stderr, cut(TEXT, 3))
    assert pipe.written == TEXT.encode()


THOUGHT = [Span("<think>\nlet me ", "draft", "thinking"), Span("see\n</think>\n\n", "draft", "thinking")]


@pytest.mark.parametrize("markdown", [True, False])
def test_thinking_is_dimmed(terminals: Any, markdown: bool) -> None:
    stdout, stderr = terminals()
    show(stdout, stderr, [*THOUGHT, *cut("**Yes**\n", 2)], markdown=markdown)
    rows = [row for row in stdout.screen.rows() if row]
    assert rows == ["<think>", "let me see", "</think>", "Yes" if markdown else "**Yes**"]
    assert b"\x1b[2m" in stdout.sent
    assert b"\x1b[2mYes" not in stdout.sent


def test_thinking_is_hidden_where_asked_and_in_pipes(terminals: Any) -> None:
    stdout, stderr = terminals()
    show(stdout, stderr, [*THOUGHT, *cut("**Yes**\n", 2)], thinking=False)
    assert stdout.screen.rows() == ["Yes"]
    for stderr in (Pipe(), Terminal(Screen(80, 10))):
        pipe = Pipe()
        show(pipe, stderr, [*THOUGHT, Span("Yes", "draft")])
        assert pipe.written == b"Yes"


def test_on_a_row_that_a_resize_may_have_folded_nothing_is_erased(
    terminals: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdout, stderr = terminals(60, 20)
    renderer = make_renderer(
        stdout=stdout, stderr=stderr, json=False, stream=True, quiet=True, stats=False, markdown=True
    )
    renderer.show(STARTED)
    renderer.show(Step((1,), (Span("words that reach beyond the thirtieth col", "bonus"),)))
    before = len(stdout.sent)
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((30, 20)))
    renderer.show(Step((1,), (Span("umn of it ", "bonus"),)))
    assert bytes(stdout.sent[before:]).startswith(b"\n")
    assert b"\x1b[" not in stdout.sent[before:]
    renderer.close()
