"""The chat's loop: read a turn, do a command or stream an answer, again."""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from specgen.cli.chat.reading import unechoed
from specgen.cli.playing import play
from specgen.conversation import Conversation
from specgen.errors import SpecgenError
from specgen.events import Event, Failed, Finished, Renderer
from specgen.render.sanitize import sanitize
from specgen.render.terminal import ColorChoice, is_terminal
from specgen.session import Session

_COMMAND = re.compile(r"/([a-zA-Z]+)(?:\s+(.*))?", re.DOTALL)


@dataclass(slots=True)
class Look:
    """How answers are shown."""

    color: ColorChoice = "auto"
    sources: bool = False
    markdown: bool = True
    thinking: bool = True


class Chat:
    """One chat. `read` returns the next turn, and raises EOFError at the end; `make_renderer` one for a look;
    `open_session` a session for a target and a draft.

    `attached` is what goes before the next turn, `file` the file that this chat was saved to or loaded from.
    """

    def __init__(
        self,
        conversation: Conversation,
        look: Look,
        make_renderer: Callable[[Look], Renderer],
        open_session: Callable[[str, str], Session],
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

    def loop(self, read: Callable[[], str]) -> None:
        """Until /exit, the end of input, or Ctrl-C twice. An error ends a turn, not the chat."""
        warned = False
        while not self.leaving:
            try:
                text = read()
            except EOFError:
                return
            except SpecgenError as error:
                self.tell(str(error))
                continue
            except KeyboardInterrupt:
                if not is_terminal(sys.stdin):
                    raise
                if warned:
                    return
                warned = True
                self.tell("Ctrl-C again leaves, and so does Ctrl-D")
                continue
            warned = not self._take(text)

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

    def _take(self, text: str) -> bool:
        """Do what `text` asks for. False if Ctrl-C broke it off."""
        from specgen.cli.chat.commands import run  # noqa: PLC0415 - they know the chat

        try:
            command = _COMMAND.fullmatch(text)
            if command:
                run(self, command[1].lower(), (command[2] or "").strip())
            elif text:
                self.say(text[1:] if text.startswith("//") else text)
        except KeyboardInterrupt:
            self.tell("interrupted")
            return False
        except SpecgenError as error:
            self.tell(str(error))
        return True


def short(text: str | None, most: int = 60) -> str:
    """`text` on one line, to remind of it."""
    line = " ".join((text or "").split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
