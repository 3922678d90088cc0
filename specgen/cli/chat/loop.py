"""The chat's loop: read a turn, do a command or stream an answer, again."""

import re
import sys
from collections.abc import Callable

from specgen.cli.chat.chat import Chat
from specgen.cli.chat.commands import run
from specgen.core.errors import SpecgenError
from specgen.render.terminal import is_terminal

_COMMAND = re.compile(r"/([a-zA-Z]+)(?:\s+(.*))?", re.DOTALL)


def loop(chat: Chat, read: Callable[[], str]) -> None:
    """Talk until /exit, the end of input, or Ctrl-C twice. An error ends a turn, not the chat."""
    warned = False
    while not chat.leaving:
        try:
            text = read()
        except EOFError:
            return
        except SpecgenError as error:
            chat.tell(str(error))
            continue
        except KeyboardInterrupt:
            if not is_terminal(sys.stdin):
                raise
            if warned:
                return
            warned = True
            chat.tell("Ctrl-C again leaves, and so does Ctrl-D")
            continue
        warned = not _take(chat, text)


def _take(chat: Chat, text: str) -> bool:
    """Do what `text` asks for. False if Ctrl-C broke it off."""
    try:
        command = _COMMAND.fullmatch(text)
        if command:
            run(chat, command[1].lower(), (command[2] or "").strip())
        elif text:
            chat.say(text[1:] if text.startswith("//") else text)
    except KeyboardInterrupt:
        chat.tell("interrupted")
        return False
    except SpecgenError as error:
        chat.tell(str(error))
    return True
