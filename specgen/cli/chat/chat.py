"""One chat: its conversation, how answers are shown, and what happens with a turn."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from specgen.cli.chat.reading import unechoed
from specgen.cli.stream import play
from specgen.core.events import Event, Failed, Finished, Renderer
from specgen.render.terminal import ColorChoice, is_terminal, sanitize
from specgen.session.conversation import Conversation
from specgen.session.interface import SessionProtocol


@dataclass(slots=True)
class Look:
    """How answers are shown."""

    color: ColorChoice = "auto"
    sources: bool = False
    markdown: bool = True
    thinking: bool = True


class Chat:
    """One chat. `make_renderer` makes a renderer for a look, `open_session` a session for a target and a draft.

    `attached` is what goes before the next turn, `file` the file that this chat was saved to or loaded from.
    """

    def __init__(
        self,
        conversation: Conversation,
        look: Look,
        make_renderer: Callable[[Look], Renderer],
        open_session: Callable[[str, str], SessionProtocol],
    ) -> None:
        self.conversation = conversation
        self.look = look
        self.open_session = open_session
        self.attached: list[str] = []
        self.file: Path | None = None
        self.leaving = False
        self._make_renderer = make_renderer
        self.restyle()

    def restyle(self) -> None:
        """Show the next answers as `look` says now."""
        self._renderer = self._make_renderer(self.look)

    def say(self, text: str) -> None:
        """The user's next turn, with what is attached before it."""
        whole = "\n\n".join([*self.attached, text])
        if self.stream(self.conversation.say(whole)):
            self.attached.clear()

    def stream(self, events: Iterator[Event]) -> bool:
        """Show an answer; true unless it failed."""
        with unechoed():
            last = play(events, self._renderer, self.conversation.session.stop)
        if isinstance(last, Failed):
            self.tell(str(last.error))
        elif not is_terminal(sys.stdout) and not last.text.endswith("\n"):
            print(flush=True)  # noqa: T201 - in a pipe nothing else parts the answers
        return isinstance(last, Finished)

    def show(self, events: Iterator[Event]) -> None:
        """Show what happens while a pair is opened. Raises SpecgenError."""
        try:
            for event in events:
                self._renderer.show(event)
        finally:
            self._renderer.close()

    def tell(self, text: str) -> None:
        """Everything but the answers goes to stderr."""
        print(sanitize(text), file=sys.stderr, flush=True)  # noqa: T201


def short(text: str | None, most: int = 60) -> str:
    """`text` on one line, to remind of it."""
    line = " ".join((text or "").split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
