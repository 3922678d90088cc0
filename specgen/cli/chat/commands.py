"""The commands of the chat: a table from names to functions with their help."""

import functools
import sys
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from specgen.cli.chat import files, settings
from specgen.cli.chat.chat import Chat, draft_name, model_name, short
from specgen.cli.inputs import as_text
from specgen.cli.ui import open_editor
from specgen.core.defaults import DRAFT
from specgen.core.errors import SpecgenError, UsageError
from specgen.core.words import did_you_mean
from specgen.render.summary import summary
from specgen.render.terminal import columns, is_terminal, wants_color
from specgen.render.text import legend

_NONE = "none"
_CLOSING = '''Ctrl-C stops an answer and keeps it; twice at an empty line leaves. Tab completes. Alt-Enter begins a new
line, and so does Enter between """ and """; Ctrl-G opens $EDITOR. A line that begins with // is sent with one /'''


@dataclass(frozen=True, slots=True)
class ChatCommand:
    """`takes` shows the argument, `about` describes the effect. Tab completes `words`, or file names for None."""

    do: Callable[[Chat, str], None]
    takes: str
    about: str
    words: Callable[[], list[str]] | None = list


def run(chat: Chat, name: str, argument: str) -> None:
    """Do a command. Raises SpecgenError."""
    command = COMMANDS.get(_ALIASES.get(name, name))
    if command is None:
        raise _unknown(name)
    if argument and not command.takes:
        raise UsageError(f"/{name} takes no argument", hint=f"/{name} alone: {command.about}")
    command.do(chat, argument)


def _unknown(name: str) -> UsageError:
    known = [f"/{each}" for each in COMMANDS]
    return UsageError(f"no command /{name}", hint=did_you_mean(f"/{name}", known, "/help lists them all"))


def completions() -> dict[str, list[str] | None]:
    """The words that may follow each command; None for file names."""
    return {f"/{name}": command.words() if command.words else None for name, command in COMMANDS.items()}


def _help(chat: Chat, argument: str) -> None:
    if argument:
        command = COMMANDS.get(_ALIASES.get(argument.lstrip("/"), argument.lstrip("/")))
        if command is None:
            raise _unknown(argument.lstrip("/"))
        chat.tell(f"/{argument.lstrip('/')} {command.takes}".rstrip() + f": {command.about}")
        return
    left = [f"/{name} {command.takes}".rstrip() for name, command in COMMANDS.items()]
    width = max(map(len, left))
    fold = functools.partial(textwrap.fill, width=columns(sys.stderr), break_long_words=False, break_on_hyphens=False)
    hang = " " * (width + 2)
    lines = [
        fold(f"{usage:{width}}  {command.about}", subsequent_indent=hang)
        for usage, command in zip(left, COMMANDS.values(), strict=True)
    ]
    chat.tell("\n".join([*lines, fold(_CLOSING)]))


def _system(chat: Chat, argument: str) -> None:
    if not argument:
        chat.tell(chat.conversation.system or "there is no system prompt; /system TEXT sets one")
        return
    chat.conversation.system = None if argument == _NONE else argument
    chat.tell("there is no system prompt any more" if argument == _NONE else "the system prompt is set")


def _set(chat: Chat, argument: str) -> None:
    if not argument:
        chat.tell(settings.listing(chat))
        return
    name, _, value = argument.replace("=", " ", 1).partition(" ")
    settings.change(chat, name.strip(), value.strip())
    chat.tell(f"{name} is {settings.shown(settings.SETTINGS[name].get(chat))}")


def _show(chat: Chat, argument: str) -> None:  # noqa: ARG001
    conversation = chat.conversation
    models = conversation.session.pair
    turns = sum(message.role == "user" for message in conversation.messages)
    used = f", {conversation.tokens} of {models.context_length} tokens" if conversation.tokens else ""
    chosen = [
        f"{name} {settings.shown(value)}"
        for name, setting in settings.SETTINGS.items()
        if (value := setting.get(chat)) not in (None, ())
    ]
    chat.tell(
        "\n".join(
            [
                f"target  {model_name(models.loaded_target)}",
                f"draft   {draft_name(conversation.session)}" + ("" if conversation.session.speculating else " (off)"),
                f"system  {conversation.system or _NONE}",
                f"turns   {turns}{used}",
                "set     " + ", ".join(chosen),
                *([f"next    {len(chat.attached)} attached"] if chat.attached else []),
            ]
        )
    )


def _model(chat: Chat, argument: str) -> None:
    if not argument:
        chat.tell(model_name(chat.conversation.session.pair.loaded_target))
        return
    target, _, draft = argument.partition(" ")
    chat.open_pair(target, draft.strip() or DRAFT)
    chat.tell(f"{model_name(chat.conversation.session.pair.loaded_target)} continues the conversation")


def _draft(chat: Chat, argument: str) -> None:
    session = chat.conversation.session
    if argument:
        chat.show(session.change_draft(argument))
        session.speculating = True
    chat.tell(f"draft: {draft_name(session)}")


def _spec(chat: Chat, argument: str) -> None:
    session = chat.conversation.session
    if argument:
        if argument not in ("on", "off"):
            raise UsageError(f"/spec is 'on' or 'off', not '{argument}'")
        session.speculating = argument == "on"
    chat.tell(f"speculation is {'on' if session.speculating else 'off'}")


def _stats(chat: Chat, argument: str) -> None:  # noqa: ARG001
    finished = chat.conversation.finished
    if finished is None:
        raise SpecgenError("no answer yet")
    width = columns(sys.stderr)
    chat.tell(summary(chat.conversation.started, finished, "full", width).rstrip())


def _color(chat: Chat, argument: str) -> None:  # noqa: ARG001
    if not is_terminal(sys.stdout) or not wants_color(sys.stdout, chat.look.color):
        raise SpecgenError("stdout is not a terminal with colours")
    chat.look.sources = not chat.look.sources
    chat.restyle()
    if chat.look.sources:
        names = legend(wants_color(sys.stderr, chat.look.color))
        print(f"answers are coloured by source: {names}", file=sys.stderr, flush=True)  # noqa: T201
    else:
        chat.tell("answers are not coloured any more")


def _regen(chat: Chat, argument: str) -> None:  # noqa: ARG001
    conversation = chat.conversation
    question = _question(chat)
    if conversation.started is not None and conversation.started.sampling.greedy:
        chat.tell("greedy decoding gives the same answer again; /set temperature 0.7 samples another")
    elif (seed := conversation.sampling.seed) is not None:
        settings.change(chat, "seed", str(seed + 1))
        chat.tell(f"the seed is now {seed + 1}, for another answer")
    chat.stream(conversation.again(question))


def _undo(chat: Chat, argument: str) -> None:  # noqa: ARG001
    said = _question(chat)
    chat.conversation.undo()
    chat.tell(f"removed: {short(said)}")


def _edit(chat: Chat, argument: str) -> None:  # noqa: ARG001
    said = _question(chat)
    if not is_terminal(sys.stdin):
        raise UsageError("/edit needs a terminal")
    with tempfile.TemporaryDirectory(prefix="specgen-") as folder:
        file = Path(folder) / "turn.md"
        file.write_text(said, encoding="utf-8")
        open_editor(file)
        edited = as_text(file.read_bytes(), str(file))
    if not edited.strip() or edited.strip() == said.strip():
        chat.tell("nothing was changed")
        return
    chat.stream(chat.conversation.again(edited.strip()))


def _clear(chat: Chat, argument: str) -> None:  # noqa: ARG001
    chat.conversation.clear()
    chat.attached.clear()
    chat.file = None
    chat.tell("the conversation is cleared")


def _exit(chat: Chat, argument: str) -> None:  # noqa: ARG001
    chat.leaving = True


def _question(chat: Chat) -> str:
    said = chat.conversation.question
    if said is None:
        raise SpecgenError("there is no turn yet")
    return said


def _setting_words() -> list[str]:
    return [f"{name} {word}".rstrip() for name, each in settings.SETTINGS.items() for word in ("", *each.words)]


COMMANDS: dict[str, ChatCommand] = {
    "help": ChatCommand(_help, "[COMMAND]", "this list, or one command of it"),
    "system": ChatCommand(_system, "[TEXT]", "show or set the system prompt; none removes it", lambda: [_NONE]),
    "set": ChatCommand(_set, "[NAME VALUE]", "list or change settings, from the next answer on", _setting_words),
    "show": ChatCommand(_show, "", "the models, the settings, how full the context is"),
    "model": ChatCommand(_model, "[TARGET [DRAFT]]", "continue with another pair", None),
    "draft": ChatCommand(_draft, "[DRAFT]", "continue with another draft", None),
    "spec": ChatCommand(_spec, "[on|off]", "speculate or not; the text is the same", lambda: ["on", "off"]),
    "stats": ChatCommand(_stats, "", "statistics of the last answer"),
    "color": ChatCommand(_color, "", "colour answers by the source of their text, or stop that"),
    "regen": ChatCommand(_regen, "", "answer the last turn again"),
    "undo": ChatCommand(_undo, "", "remove the last turn"),
    "edit": ChatCommand(_edit, "", "edit your last turn in $EDITOR and answer it again"),
    "file": ChatCommand(files.attach, "FILE", "put a file before your next turn", None),
    "save": ChatCommand(files.save, "[FILE]", "write the chat to a file", None),
    "load": ChatCommand(files.load, "FILE", "continue a saved chat", None),
    "copy": ChatCommand(files.copy_answer, "", "copy the last answer to the clipboard"),
    "clear": ChatCommand(_clear, "", "clear the conversation"),
    "exit": ChatCommand(_exit, "", "leave (so does Ctrl-D)"),
}
_ALIASES = {"quit": "exit", "bye": "exit", "colour": "color"}
