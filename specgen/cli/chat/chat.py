"""A chat: its conversation, the look of its answers, and the loop over turns."""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from specgen.cli.stream import owned_terminal, play
from specgen.core.errors import SpecgenError
from specgen.core.events import Event, Failed, Finished, LoadedModel, Renderer, Suspended
from specgen.core.types import ModelRef
from specgen.render.terminal import ColorChoice, is_terminal, sanitize
from specgen.session.conversation import Conversation
from specgen.session.interface import SessionProtocol

_COMMAND = re.compile(r"/([a-zA-Z]+)(?:\s+(.*))?", re.DOTALL)


@dataclass(slots=True)
class Look:
    """How answers are shown."""

    color: ColorChoice = "auto"
    sources: bool = False
    markdown: bool = True
    thinking: bool = True


class Chat:
    """One chat. `make_renderer` makes a renderer for a look, `open_session` a session for a target and a draft.

    `attached` are texts to put before the next turn. `file` is where this chat was saved to or loaded from.
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
        self.attached: list[str] = []
        self.file: Path | None = None
        self.leaving = False
        self._make_renderer = make_renderer
        self._open_session = open_session
        self.restyle()

    def loop(self, read: Callable[[], str], run_command: Callable[["Chat", str, str], None]) -> None:
        """Handle turns until /exit, the end of input, or Ctrl-C twice. An error ends a turn, not the chat.

        `read` returns the next turn. `run_command` does the command of a name with an argument.
        """
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
            warned = not self._handle(text, run_command)

    def _handle(self, text: str, run_command: Callable[["Chat", str, str], None]) -> bool:
        """Do a command or answer a turn. False if Ctrl-C interrupted it."""
        try:
            command = _COMMAND.fullmatch(text)
            if command:
                run_command(self, command[1].lower(), (command[2] or "").strip())
            elif text:
                self.say(text[1:] if text.startswith("//") else text)
        except KeyboardInterrupt:
            self.tell("interrupted")
            return False
        except SpecgenError as error:
            self.tell(str(error))
        return True

    def restyle(self) -> None:
        """Apply `look` to the next answers."""
        self._renderer = self._make_renderer(self.look)

    def say(self, text: str) -> None:
        """Answer the next turn of the user, which begins with the attached texts."""
        whole = "\n\n".join([*self.attached, text])
        if self.stream(self.conversation.say(whole)):
            self.attached.clear()

    def stream(self, events: Iterator[Event]) -> bool:
        """Show an answer; true unless it failed."""
        last = play(events, self._renderer, self.conversation.session.stop)
        if isinstance(last, Failed):
            self.tell(str(last.error))
        elif not is_terminal(sys.stdout) and not last.text.endswith("\n"):
            print(flush=True)  # noqa: T201 - separates the answers in a pipe
        return isinstance(last, Finished)

    def show(self, events: Iterator[Event]) -> None:
        """Show the progress of opening a pair. Raises SpecgenError."""
        try:
            with owned_terminal(lambda: self._renderer.show(Suspended())) as terminal:
                for event in events:
                    with terminal.drawing():
                        self._renderer.show(event)
        finally:
            self._renderer.close()

    def open_pair(self, target: str, draft: str) -> None:
        """Continue with another pair. If that fails, the old one stays. Raises SpecgenError."""
        session = self._open_session(target, draft)
        try:
            self.show(session.open())
        except BaseException:
            session.close()
            raise
        self.conversation.session.close()
        self.conversation.move(session)

    def tell(self, text: str) -> None:
        """Print to stderr. Stdout holds only answers."""
        print(sanitize(text), file=sys.stderr, flush=True)  # noqa: T201


def model_name(model: LoadedModel) -> str:
    """A model as -m and -d take it, with its revision."""
    return str(ModelRef.at(model.id, model.revision))


def draft_name(session: SessionProtocol) -> str:
    """The draft as -d takes it."""
    draft = session.pair.loaded_draft
    return model_name(draft) if draft else session.pair.drafter_name


def short(text: str | None, most: int = 60) -> str:
    """`text` in one line of at most `most` characters."""
    line = " ".join((text or "").split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
