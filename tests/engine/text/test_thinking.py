"""Thinking is separated from the answer, independent of how the text is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specgen.core.events import Span
from specgen.engine.text.thinking import Tags, ThinkingSplit, without_thinking

TAGS = Tags("<think>", "</think>")
OPENED = Tags("<think>", "</think>", opened=True)


def split(text: str, tags: Tags | None, sizes: list[int]) -> tuple[str, str]:
    """The thinking and the answer of `text`, written in pieces of `sizes` characters."""
    made = ThinkingSplit(tags)
    out: list[Span] = []
    at = 0
    while at < len(text):
        size = sizes.pop(0) if sizes else 1
        out += made.write([Span(text[at : at + size], "draft")])
        at += size
    out += made.flush()
    assert "".join(span.text for span in out) == text
    assert {span.source for span in out} <= {"draft"}
    thinking, answer = ("".join(span.text for span in out if span.channel == name) for name in ("thinking", "answer"))
    return thinking, answer


@given(st.lists(st.integers(1, 9), max_size=20))
def test_every_cut_gives_the_same(sizes: list[int]) -> None:
    assert split("<think>\n1 < 2\n</think>\n\nYes: </think>", TAGS, list(sizes)) == (
        "<think>\n1 < 2\n</think>\n\n",
        "Yes: </think>",
    )
    assert split("so it is.</think>Yes", OPENED, list(sizes)) == ("so it is.</think>", "Yes")
    assert split("<b>bold</b> <think>", TAGS, list(sizes)) == ("", "<b>bold</b> <think>")


@pytest.mark.parametrize(
    ("text", "tags", "thinking"),
    [
        ("<think>never closed </thi", TAGS, "<think>never closed </thi"),
        (" \n<think>a</think>", TAGS, " \n<think>a</think>"),
        ("<thin", TAGS, ""),
        ("<think>a</think>b", None, ""),
        ("", OPENED, ""),
    ],
)
def test_what_never_ends_or_never_begins(text: str, tags: Tags | None, thinking: str) -> None:
    assert split(text, tags, []) == (thinking, text[len(thinking) :])


def test_the_answer_of_a_whole_turn() -> None:
    assert without_thinking("<think>a</think>\n\nb", TAGS) == "b"
    assert without_thinking("a</think>b", OPENED) == "b"
    assert without_thinking("the tag </think> ends it", TAGS) == "the tag </think> ends it"
    assert without_thinking("b", None) == "b"


def test_blanks_after_the_closing_tag_may_belong_to_the_answer() -> None:
    kept = ThinkingSplit(OPENED, keep_blanks=True)
    spans = [*kept.write([Span("a</think>\n", "draft")]), *kept.write([Span(" b", "draft")]), *kept.flush()]
    assert [(span.text, span.channel) for span in spans] == [
        ("a</think>", "thinking"),
        ("\n", "answer"),
        (" b", "answer"),
    ]
    assert not kept.is_thinking
