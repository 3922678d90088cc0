"""Save a chat as JSON and read it: messages, models with revisions, sampling."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from specgen.core.errors import BadFile, UsageError
from specgen.core.files import parse_json, read_text, replace_file, resolved
from specgen.core.types import SAMPLING_RANGES, TOKENS_RANGE, Message, ModelRef, SamplingChoice
from specgen.core.words import reason

VERSION = 1
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class SavedChat:
    """The content of a file. Models are named with their revisions; `draft` may be `lookup` or `none`."""

    target: str
    draft: str
    messages: tuple[Message, ...]
    sampling: SamplingChoice
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    think: bool | None = None


def write(path: Path, chat: SavedChat) -> None:
    """Save `chat`, readable by this user only. The old file stays if that fails. Raises BadFile."""
    target = ModelRef.parse(chat.target)
    data = {
        "version": VERSION,
        "models": {"target": asdict(target), "draft": asdict(ModelRef.parse(chat.draft))},
        "sampling": {name: value for name, value in asdict(chat.sampling).items() if value is not None},
        "max_new_tokens": chat.max_new_tokens,
        "stop": chat.stop,
        "think": chat.think,
        "messages": [asdict(message) for message in chat.messages],
    }
    text = json.dumps(data, ensure_ascii=False, indent=2) + "\n"
    try:
        replace_file(path, text, private=True, parents=False)
    except OSError as error:
        raise BadFile(f"cannot save to {path}: {reason(error)}", hint="check the path and its permissions") from error


def read(path: Path) -> SavedChat:
    """The chat in `path`. Raises BadFile for an unreadable file, another kind of file, or a newer version."""
    try:
        data = parse_json(read_text(resolved(path)))
    except OSError as error:
        raise BadFile(f"cannot read {path}: {reason(error)}", hint="check the path and its permissions") from error
    except ValueError:
        raise _broken(path) from None
    version = data.get("version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise BadFile(f"{path} was saved by a newer specgen", hint="update specgen")
    try:
        return _parse(data)
    except UsageError as error:  # of a number
        raise BadFile(f"{path}: {error.message}", hint=error.hint) from error
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _broken(path) from None


def _broken(path: Path) -> BadFile:
    return BadFile(f"{path} is not a saved chat, or is damaged", hint="name a file that /save has written")


def _parse(data: Any) -> SavedChat:
    if data["version"] != VERSION:
        raise ValueError
    messages = tuple(Message(_word(each["role"]), _word(each["content"])) for each in data["messages"])
    turns = [message.role for message in messages if message.role != "system"]
    if any(message.role not in _ROLES for message in messages) or turns != [*_ROLES[1:]] * (len(turns) // 2):
        raise ValueError
    if any(message.role == "system" for message in messages[1:]):
        raise ValueError
    limit = data["max_new_tokens"]
    return SavedChat(
        target=_model(data["models"]["target"]),
        draft=_model(data["models"]["draft"]),
        messages=messages,
        sampling=SamplingChoice(**{name: data["sampling"].get(name) for name in SAMPLING_RANGES}),
        max_new_tokens=None if limit is None else int(TOKENS_RANGE.check("max_new_tokens", limit)),
        stop=tuple(_word(stop) for stop in data["stop"]),
        think=data["think"] if data["think"] is None else bool(data["think"]),
    )


def _model(data: Any) -> str:
    revision, file = (None if data[key] is None else _word(data[key]) for key in ("revision", "file"))
    return str(ModelRef(_word(data["source"]), revision, file))


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
