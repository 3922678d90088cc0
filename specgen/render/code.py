"""The first fenced code block of an answer, for --extract-code."""

import re
from collections.abc import Callable
from dataclasses import replace

from specgen.core.errors import NoCodeBlock
from specgen.core.events import Event, Failed, Finished, Notice, Renderer, Span, Started, Step

# As in CommonMark, but with any indentation, since models put blocks into lists.
_OPENING = re.compile(r"( *)(`{3,}(?=[^`]*$)|~{3,})")


class FirstBlock:
    """Passes only the first fenced code block to a renderer, each line when it is complete.

    `enough` is called when the block is closed, so that generation can stop. If an answer has no block, the renderer
    gets a failure, and `missing` is the answer.
    """

    def __init__(self, renderer: Renderer, enough: Callable[[], None] = lambda: None) -> None:
        self._renderer = renderer
        self._enough = enough
        self.missing: str | None = None
        self._reset()

    def show(self, event: Event) -> None:
        if isinstance(event, Started):
            self._reset()
        elif isinstance(event, Step):
            event = replace(event, spans=tuple(self._complete_lines(event.spans)))
        elif isinstance(event, Finished):
            if last := self._end_line():
                self._renderer.show(Step((), tuple(last)))
            if self._fence is None:
                self.missing = event.text
                event = Failed(NoCodeBlock("the answer has no code block"))
            else:
                if not self._closed:
                    self._renderer.show(Notice("the code block is incomplete: the answer ended inside it"))
                event = replace(event, text=self.code)
        self._renderer.show(event)

    def close(self) -> None:
        self._renderer.close()

    @property
    def code(self) -> str:
        """The block so far."""
        return "".join(self._code)

    def _reset(self) -> None:
        self.missing = None
        self._line: list[Span] = []
        self._fence: re.Match[str] | None = None
        self._closed = False
        self._code: list[str] = []

    def _complete_lines(self, spans: tuple[Span, ...]) -> list[Span]:
        """The code lines that `spans` completes. The start of a line waits, since it may be a fence."""
        cut: list[Span] = []
        for span in spans:
            if span.channel != "answer":
                continue
            for piece in span.text.splitlines(keepends=True):
                self._line.append(replace(span, text=piece))
                if piece.endswith("\n"):
                    cut += self._end_line()
        return cut

    def _end_line(self) -> list[Span]:
        line, self._line = self._line, []
        text = "".join(span.text for span in line)
        if self._closed:
            return []
        if self._fence is None:
            self._fence = _OPENING.match(text.rstrip())
            return []
        if self._closes(text.strip()):
            self._closed = True
            self._enough()
            return []
        code = _without_indent(line, len(self._fence[1]))
        self._code += [span.text for span in code]
        return code

    def _closes(self, text: str) -> bool:
        assert self._fence is not None  # noqa: S101
        fence = self._fence[2]
        return len(text) >= len(fence) and not text.strip(fence[0])


def _without_indent(line: list[Span], indent: int) -> list[Span]:
    """`line` without at most `indent` leading spaces."""
    text = "".join(span.text for span in line)
    drop = min(indent, len(text) - len(text.lstrip(" ")))
    left: list[Span] = []
    for span in line:
        left.append(replace(span, text=span.text[drop:]))
        drop = max(0, drop - len(span.text))
    return left
