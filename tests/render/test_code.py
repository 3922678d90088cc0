"""The first fenced block of an answer, for any pieces of text."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from specgen.core.errors import NoCodeBlock
from specgen.core.events import Event, Failed, Finished, Notice, Span, Stats, Step
from specgen.render.code import FirstBlock
from tests.render.samples import STARTED


class Shown:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = False

    def show(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed = True

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Step))


def extract(*pieces: str) -> tuple[Shown, FirstBlock, list[int]]:
    """The events that a renderer gets for `pieces`, and the number of pieces until the block was closed."""
    shown, enough = Shown(), []
    block = FirstBlock(shown, lambda: enough.append(count))
    block.show(STARTED)
    for count, piece in enumerate(pieces, 1):  # noqa: B007 - the lambda reads it
        block.show(Step((1,), (Span(piece, "draft"),)))
    count = len(pieces) + 1
    block.show(Finished("end", "".join(pieces), Stats()))
    block.close()
    return shown, block, enough


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Sure:\n```python\na = 1\n\nb\n```\nand ```x```\n```\nmore\n```\n", "a = 1\n\nb\n"),
        ("```\na\n```", "a\n"),
        ("~~~ text\na\n```\nb\n~~~\n", "a\n```\nb\n"),
        ("````md\n```\na\n```\n````\n", "```\na\n```\n"),
        ("```\na\n`````  \nb", "a\n"),
        ("1. so:\n   ```\n   a\n     b\n c\n   ```\n", "a\n  b\nc\n"),
        ("Use ``` to quote, or ```x``` too:\n```\na\n```\n", "a\n"),
        ("```inline``` is none\n```\na\n```\n", "a\n"),
        ("```\n```\nafter", ""),
        ("```\r\na\r\n```\r\nb", "a\r\n"),
    ],
)
def test_the_first_block(text: str, code: str) -> None:
    for pieces in ([text], list(text)):
        shown, block, enough = extract(*pieces)
        assert shown.text == block.code == code
        assert block.missing is None
        assert len(enough) == 1
        last = shown.events[-1]
        assert isinstance(last, Finished)
        assert last.text == code
        assert shown.closed


@given(some.data())
def test_pieces_do_not_matter(data: some.DataObject) -> None:
    text = "Here:\n  ```py\n  a = '```'\n  b\n  ```\nand\n```\nc\n```\n"
    cuts = sorted(data.draw(some.lists(some.integers(0, len(text)), max_size=12)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert extract(*pieces)[0].text == "a = '```'\nb\n"


def test_it_streams_line_by_line_and_stops_at_the_end() -> None:
    shown, _, enough = extract("x\n```\n", "a", "\nb", "\n", "```", "\nrest")
    steps = [event.text for event in shown.events if isinstance(event, Step)]
    assert steps == ["", "", "a\n", "b\n", "", ""]
    assert enough == [6]


def test_a_block_that_is_cut_is_shown_and_said_to_be() -> None:
    shown, block, enough = extract("```\na\nb")
    assert shown.text == "a\nb"
    assert block.missing is None
    assert not enough
    (notice,) = [event for event in shown.events if isinstance(event, Notice)]
    assert "incomplete" in notice.text


def test_without_a_block_nothing_is_shown_and_nothing_lost() -> None:
    shown, block, _ = extract("no ", "code\n")
    assert shown.text == ""
    assert block.missing == "no code\n"
    last = shown.events[-1]
    assert isinstance(last, Failed)
    assert isinstance(last.error, NoCodeBlock)


def test_thinking_is_no_answer() -> None:
    shown = Shown()
    block = FirstBlock(shown, lambda: None)
    block.show(STARTED)
    block.show(Step((1,), (Span("```\nno\n```\n", "draft", "thinking"), Span("```\nyes\n```\n", "draft"))))
    assert shown.text == "yes\n"
