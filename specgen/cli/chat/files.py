"""Commands of the chat for files and the clipboard: /file, /save, /load, /copy."""

import sys
from pathlib import Path

from specgen.cli.chat.chat import Chat, draft_name, model_name, short
from specgen.cli.inputs import read_text
from specgen.core.errors import BadFile, SpecgenError, UsageError
from specgen.core.words import plural
from specgen.render.clipboard import copy
from specgen.session import saved_chat
from specgen.session.saved_chat import SavedChat


def attach(chat: Chat, argument: str) -> None:
    """/file: put a file before the next turn."""
    path = _path(argument)
    text = read_text(path)
    chat.attached.append(f"{path.name}:\n\n{text.rstrip()}")
    chat.tell(f"{path} is put before your next turn ({len(text.splitlines())} lines)")


def save(chat: Chat, argument: str) -> None:
    """/save: write the chat to a file."""
    path = _path(argument) if argument or chat.file is None else chat.file
    if path.exists() and (chat.file is None or path.resolve() != chat.file.resolve()):
        raise BadFile(f"{path} exists already", hint="name another file, or remove it first")
    conversation = chat.conversation
    pair = conversation.session.pair
    saved_chat.write(
        path,
        SavedChat(
            target=model_name(pair.loaded_target),
            draft=draft_name(conversation.session),
            messages=tuple(conversation.messages),
            sampling=conversation.sampling,
            max_new_tokens=conversation.max_new_tokens,
            stop=conversation.stop,
            think=conversation.think,
        ),
    )
    chat.file = path
    chat.tell(f"saved to {path}")


def load(chat: Chat, argument: str) -> None:
    """/load: continue a saved chat. A wrong file changes nothing."""
    path = _path(argument)
    saved = saved_chat.read(path)
    conversation = chat.conversation
    session = conversation.session
    if (saved.target, saved.draft) != (model_name(session.pair.loaded_target), draft_name(session)):
        try:
            chat.open_pair(saved.target, saved.draft)
        except SpecgenError as error:
            chat.tell(f"{error}; continuing with {model_name(session.pair.loaded_target)}")
    conversation.system = None
    conversation.restore(saved.messages)
    conversation.sampling, conversation.max_new_tokens = saved.sampling, saved.max_new_tokens
    conversation.stop, conversation.think = saved.stop, saved.think
    chat.file = path
    turns = sum(message.role == "user" for message in saved.messages)
    last = f"; the last was: {short(conversation.question)}" if conversation.question else ""
    chat.tell(f"loaded {plural(turns, 'turn')}{last}")


def copy_answer(chat: Chat, argument: str) -> None:  # noqa: ARG001
    """/copy: copy the last answer, without thinking, to the clipboard."""
    answer = chat.conversation.answer
    if answer is None:
        raise SpecgenError("no answer yet")
    chat.tell(f"copied by {copy(answer, sys.stderr)}")


def _path(argument: str) -> Path:
    if not argument:
        raise UsageError("which file?", hint="name it after the command")
    try:
        return Path(argument).expanduser()
    except RuntimeError as error:  # the user after ~ does not exist
        raise BadFile(f"cannot find {argument}: {error}") from error
