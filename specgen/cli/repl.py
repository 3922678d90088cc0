"""The chat: read a line, do a command or stream an answer, again."""

import sys
from collections.abc import Callable

from specgen.cli.inputs import as_text
from specgen.cli.playing import play
from specgen.conversation import Conversation
from specgen.events import Failed, Renderer
from specgen.render.sanitize import sanitize
from specgen.render.summary import summary
from specgen.render.terminal import ColorChoice, columns, is_terminal, wants_color
from specgen.render.text import legend
from specgen.session import Session

_HELP = """/help   this list
/clear  forget the conversation
/stats  statistics of the last answer
/color  paint answers by where their text came from, or no longer
/exit   leave (so does Ctrl-D)
Ctrl-C stops an answer and keeps it. A line that begins with // is sent with one / less."""


class Repl:
    """One chat on one session; `read` returns the next line and raises EOFError at the end.

    `painted` makes the renderer of the answers, which paints them by source or not; `sources` is how it begins.
    """

    def __init__(
        self,
        session: Session,
        conversation: Conversation,
        painted: Callable[[bool], Renderer],
        read: Callable[[], str],
        *,
        color: ColorChoice = "auto",
        sources: bool = False,
    ) -> None:
        self._session = session
        self._conversation = conversation
        self._painted = painted
        self._renderer = painted(sources)
        self._read = read
        self._color: ColorChoice = color
        self._sources = sources
        self._commands = {
            "/help": self._help,
            "/clear": self._clear,
            "/stats": self._stats,
            "/color": self._paint,
        }

    def loop(self) -> None:
        """Until /exit or the end of input. An error ends a turn, not the chat."""
        while True:
            try:
                line = self._read().strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                if not is_terminal(sys.stdin):
                    raise
                continue  # what was typed is given up
            if line in ("/exit", "/quit"):
                return
            if line.startswith("/") and not line.startswith("//"):
                self._command(line)
            elif line:
                self._say(line[1:] if line.startswith("//") else line)

    def _say(self, text: str) -> None:
        try:
            last = play(self._conversation.say(text), self._renderer, self._session.stop)
        except KeyboardInterrupt:
            self._tell("interrupted")
            return
        if isinstance(last, Failed):
            self._tell(str(last.error))
        elif not is_terminal(sys.stdout) and not last.text.endswith("\n"):
            print(flush=True)  # noqa: T201 - in a pipe nothing else parts the answers

    def _command(self, line: str) -> None:
        name = line.partition(" ")[0]
        action = self._commands.get(name)
        if action is None:
            self._tell(f"no command {name}; /help lists them")
        else:
            action()

    def _help(self) -> None:
        self._tell(_HELP)

    def _clear(self) -> None:
        self._conversation.clear()
        self._tell("the conversation is forgotten")

    def _stats(self) -> None:
        finished = self._conversation.finished
        if finished is None:
            self._tell("no answer yet")
        else:
            self._tell(summary(self._conversation.started, finished, "full", columns(sys.stderr)).rstrip())

    def _paint(self) -> None:
        if not is_terminal(sys.stdout) or not wants_color(sys.stdout, self._color):
            self._tell("answers are not painted here: stdout is no terminal with colours")
            return
        self._sources = not self._sources
        self._renderer = self._painted(self._sources)
        if self._sources:
            names = legend(wants_color(sys.stderr, self._color))
            print(f"answers are painted by source: {names}", file=sys.stderr, flush=True)  # noqa: T201
        else:
            self._tell("answers are no longer painted")

    def _tell(self, text: str) -> None:
        """Everything but the answers goes to stderr."""
        print(sanitize(text), file=sys.stderr, flush=True)  # noqa: T201


def line_reader() -> Callable[[], str]:
    """Lines with editing and history on a terminal, plain ones from a pipe."""
    if not is_terminal(sys.stdin):
        return _piped_line
    from prompt_toolkit import PromptSession  # noqa: PLC0415 - 0.15 s that a pipe need not pay
    from prompt_toolkit.output import create_output  # noqa: PLC0415

    # The prompt is drawn on stderr, so that stdout holds answers only.
    session: PromptSession[str] = PromptSession("> ", output=create_output(sys.stderr))
    return session.prompt


def _piped_line() -> str:
    line = b"" if sys.stdin is None or sys.stdin.closed else sys.stdin.buffer.readline()
    if not line:
        raise EOFError
    return as_text(line, "stdin")
