"""The last conversation of the history, and the next turn of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specgen.core.errors import UsageError
from specgen.core.events import Event
from specgen.core.types import Message, ModelRef
from specgen.history.recorder import history

if TYPE_CHECKING:
    from specgen.serve.background.client import BackgroundSession


@dataclass(frozen=True, slots=True)
class Earlier:
    """A conversation so far. `raw` says that no chat template was in it: its text is continued as it is.

    `model` and `draft` are those of its last answer, in the words of -m and -d.
    """

    messages: Sequence[Message]
    raw: bool
    model: str
    draft: str

    @property
    def text(self) -> str:
        """Everything that was said, as a model without a chat template reads it."""
        opening = next((n for n, message in enumerate(self.messages) if message.role == "user"), 0) + 1
        first = "\n\n".join(message.content for message in self.messages[:opening])
        return first + "".join(message.content for message in self.messages[opening:])

    def go_on(
        self, session: "BackgroundSession", text: str, *, system: str | None, raw: bool, **options: Any
    ) -> Iterator[Event]:
        """The stream of the answer to `text`, which may be empty where the conversation is raw.

        A new system prompt takes the place of the old one. Raises UsageError.
        """
        if self.raw:
            return session.generate(self.text + text, system=system, raw=True, **options)
        if raw:
            raise UsageError("the last conversation is in a chat template", hint="leave out --raw, or --continue")
        earlier = [message for message in self.messages if system is None or message.role != "system"]
        return session.go_on(earlier, text, system=system, **options)


def last_conversation() -> Earlier:
    """The conversation of the latest answer of run or chat. Raises UsageError, BadFile."""
    with history() as answers:
        last = answers.last("run", "chat")
        if last is None:
            raise UsageError("there is no conversation to continue", hint="the history is empty; see specgen log")
        messages = [*answers.messages(last.id), Message("assistant", last.output)]
    draft = last.settings["draft"]
    return Earlier(
        messages, last.raw, _words(last.settings["target"]), _words(draft) if draft else last.settings["drafter"]
    )


def _words(model: Mapping[str, str | None]) -> str:
    return str(ModelRef.at(str(model["id"]), model["revision"]))
