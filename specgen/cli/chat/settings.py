"""Settings of the chat that /set changes: sampling, limits, look."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from specgen.cli.chat.chat import Chat
from specgen.core.errors import UsageError
from specgen.core.types import SAMPLING_RANGES, TOKENS_RANGE, NumberRange
from specgen.core.words import did_you_mean

_UNSET = ("auto", "none", "default")


@dataclass(frozen=True, slots=True)
class ChatSetting:
    """`takes` describes the values. Tab completes `words`."""

    takes: str
    get: Callable[[Chat], object]
    set: Callable[[Chat, str], None]
    words: tuple[str, ...] = ()


def change(chat: Chat, name: str, value: str) -> None:
    """Set `name` to `value`. Raises UsageError."""
    setting = SETTINGS.get(name)
    if setting is None:
        raise UsageError(f"there is no setting '{name}'", hint=did_you_mean(name, SETTINGS, "/set lists them"))
    if not value:
        raise UsageError(f"{name} is {shown(setting.get(chat))}", hint=f"/set {name} takes {setting.takes}")
    try:
        setting.set(chat, value)
    except ValueError:
        raise UsageError(f"{name} cannot be '{value}'", hint=f"it takes {setting.takes}") from None


def listing(chat: Chat) -> str:
    """Every setting with its value and its possible values, one on each line."""
    width = max(map(len, SETTINGS))
    return "\n".join(
        f"{name:{width}}  {shown(setting.get(chat)):8}  {setting.takes}" for name, setting in SETTINGS.items()
    )


def shown(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or value == ():
        return "auto"
    return " ".join(value) if isinstance(value, tuple) else str(value)


def _number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        if text in _UNSET:
            return None
        value = kind(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return parse


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError
    return text == "on"


def _sampling(name: str, allowed: NumberRange) -> ChatSetting:
    parse = _number(int if allowed.integer else float, allowed.low, allowed.high)

    def put(chat: Chat, text: str) -> None:
        chat.conversation.sampling = dataclasses.replace(chat.conversation.sampling, **{name: parse(text)})

    return ChatSetting(
        f"{allowed.words}, or auto", lambda chat: getattr(chat.conversation.sampling, name), put, ("auto",)
    )


def _of_conversation(name: str, takes: str, parse: Callable[[str], Any], *words: str) -> ChatSetting:
    return ChatSetting(
        takes,
        lambda chat: getattr(chat.conversation, name),
        lambda chat, text: setattr(chat.conversation, name, parse(text)),
        words,
    )


def _of_look(name: str) -> ChatSetting:
    def put(chat: Chat, text: str) -> None:
        setattr(chat.look, name, _switch(text))
        chat.restyle()

    return ChatSetting("on or off", lambda chat: getattr(chat.look, name), put, ("on", "off"))


SETTINGS: dict[str, ChatSetting] = {
    **{name: _sampling(name, allowed) for name, allowed in SAMPLING_RANGES.items()},
    "max_tokens": _of_conversation(
        "max_new_tokens", "1 or more, or auto", _number(int, TOKENS_RANGE.low, TOKENS_RANGE.high), "auto"
    ),
    "stop": _of_conversation(
        "stop", "a text that ends answers, or none", lambda text: () if text in _UNSET else (text,), "none"
    ),
    "think": _of_conversation(
        "think",
        "on, off or auto",
        lambda text: None if text in _UNSET else _switch(text),
        *("on", "off", "auto"),
    ),
    "thinking": _of_look("thinking"),
    "markdown": _of_look("markdown"),
}
