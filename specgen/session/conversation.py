"""A conversation: its turns reuse the caches and the generated token ids."""

import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

from specgen.core.events import Event, Finished, Notice, Started, Step, failing, with_messages
from specgen.core.tokens import Tokens
from specgen.core.types import Constraint, Message, SamplingChoice
from specgen.engine.text.thinking import without_thinking
from specgen.session.interface import SessionProtocol
from specgen.session.prompt import chat_text, encode_raw, explain_think, thinking_tags

# Old turns are dropped when less than this fraction of the context is free for the answer.
_ROOM = 1 / 8


@dataclass(frozen=True, slots=True)
class _Encoded:
    """The text and ids that the models have read. A mark (characters, tokens) is a position that both share."""

    text: str = ""
    context: Tokens = field(default_factory=Tokens)
    marks: tuple[tuple[int, int], ...] = ((0, 0),)


class Conversation:
    """The turns so far. A stopped answer is kept; a failed turn is not.

    The attributes `sampling`, `max_new_tokens`, `stop` and `think` may be changed between turns.
    """

    def __init__(
        self,
        session: SessionProtocol,
        *,
        system: str | None = None,
        sampling: SamplingChoice | None = None,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        think: bool | None = None,
        constraint: Constraint | None = None,
        raw: bool = False,
    ) -> None:
        """With `raw` the messages are one text without a chat template, as for a model that has none."""
        self.session = session
        self.sampling = sampling or SamplingChoice()
        self.max_new_tokens = max_new_tokens
        self.stop = tuple(stop)
        self.think = think
        self.constraint = constraint
        self.raw = raw
        self.messages = [Message("system", system)] if system else []
        self.started: Started | None = None
        self.finished: Finished | None = None
        self._encoded = _Encoded()
        self._told: set[str] = set()

    @property
    def system(self) -> str | None:
        """The system prompt. A new one replaces it from the next turn on."""
        first = self.messages[:1]
        return first[0].content if first and first[0].role == "system" else None

    @system.setter
    def system(self, text: str | None) -> None:
        self.messages = [*([Message("system", text)] if text else []), *self._turns()]

    @property
    def question(self) -> str | None:
        """The last message of the user, None before the first turn."""
        return next((message.content for message in reversed(self.messages) if message.role == "user"), None)

    @property
    def answer(self) -> str | None:
        """The last answer without its thinking, None before the first."""
        if not self.messages or self.messages[-1].role != "assistant":
            return None
        begun = "" if self._plain else self._text(self.messages[:-1])
        return without_thinking(self.messages[-1].content, thinking_tags(self.session.pair.tokenizer, begun))

    @property
    def tokens(self) -> int:
        """The number of context tokens after the last answer, 0 before the first."""
        done = self.finished
        return done.stats.prompt_tokens + done.stats.generated_tokens if done else 0

    def clear(self) -> None:
        """Delete every turn; keep the system prompt."""
        self.restore([])

    def restore(self, turns: Sequence[Message]) -> None:
        """Replace the turns. A system prompt among them replaces the current one."""
        system = [message for message in self.messages if message.role == "system"]
        has_system = any(message.role == "system" for message in turns)
        self.messages = [*([] if has_system else system), *turns]
        self.started = self.finished = None

    def undo(self) -> str | None:
        """Delete the last turn. Returns its user message, None without turns."""
        said = self.question
        if said is not None:
            self.messages = self._before_last()
            self.started = self.finished = None
        return said

    def move(self, session: SessionProtocol) -> None:
        """Continue with another session, which reads the conversation from the start."""
        self.session = session
        self._encoded = _Encoded()
        self._told.clear()

    def say(self, text: str) -> Iterator[Event]:
        """Stream the answer to the user's next message."""
        return failing(self._turn([*self.messages, Message("user", text)]))

    def again(self, text: str) -> Iterator[Event]:
        """Replace the last turn by `text` and stream its answer. A failure keeps the old turn."""
        return failing(self._turn([*self._before_last(), Message("user", text)]))

    def _turns(self) -> list[Message]:
        return [message for message in self.messages if message.role != "system"]

    def _before_last(self) -> list[Message]:
        """The messages before the last turn."""
        users = [at for at, message in enumerate(self.messages) if message.role == "user"]
        return self.messages[: users[-1]] if users else list(self.messages)

    def _turn(self, messages: list[Message]) -> Generator[Event, None, None]:
        yield from self.session.open()
        tokenizer = self.session.pair.tokenizer
        messages, encoded, notices = self._fit(messages)
        for notice in (*self._notices(), *notices):
            yield Notice(notice)
        tags = None if self._plain else thinking_tags(tokenizer, encoded.text, self.think)
        generated: list[int] = []
        answer: list[str] = []
        events = self.session.run(encoded.context, self.sampling, self.max_new_tokens, self.stop, tags, self.constraint)
        try:
            for each in events:
                event = with_messages(each, messages, raw=self._plain)
                if isinstance(event, Step):
                    generated += event.tokens
                    answer += (span.text for span in event.spans)
                elif isinstance(event, Started):
                    self.started = event
                elif isinstance(event, Finished):
                    self.finished = event
                yield event
        except Exception:
            generated.clear()
            raise
        finally:
            # Also when the caller closed the stream: the shown text was said.
            if generated:
                said = "".join(answer)
                self.messages = [*messages, Message("assistant", said)]
                # The ids may contain a stop string or withheld text that was not shown.
                whole = tokenizer.decode(generated) == said
                context = encoded.context.grow(generated if whole else tokenizer.encode(said, special=False))
                text = encoded.text + said
                self._encoded = _Encoded(text, context, (*encoded.marks, (len(text), len(context))))

    def _notices(self) -> list[str]:
        """Notices about this model's template, each once per session."""
        tokenizer = self.session.pair.tokenizer
        if self.raw:
            return []
        known = "this model has no chat template: it continues the conversation as plain text"
        notices = [known if self._plain else explain_think(tokenizer, self.think)]
        notices = [notice for notice in notices if notice and notice not in self._told]
        self._told.update(notices)
        return notices

    def _fit(self, messages: list[Message]) -> tuple[list[Message], _Encoded, list[str]]:
        """The messages that fit the context, their ids, and notices about what was dropped.

        A full context drops whole turns, oldest first, until it is half empty. Each drop makes the models read the
        rest again, so drops should be rare. Plain text also loses the beginning of its last earlier turn.
        """
        encoded = self._encode(messages)
        longest = self.session.pair.context_length
        if len(encoded.context) <= longest * (1 - _ROOM):
            return messages, encoded, []
        kept, dropped = messages, 0
        fewest = 2 if self._plain else 1
        while len(encoded.context) > longest / 2 and (shorter := _without_oldest(kept, fewest)) is not None:
            kept, dropped = shorter, dropped + 1
            encoded = self._encode(kept)
        forgotten = "the oldest turn is" if dropped == 1 else f"the oldest {dropped} turns are"
        if self._plain and len(encoded.context) > longest / 2:
            kept, forgotten = self._cut_beginning(kept, len(encoded.context) - longest // 2), "the oldest text is"
            encoded = self._encode(kept)
        if kept == messages or len(encoded.context) >= longest:
            return messages, self._encode(messages), []
        return kept, encoded, [f"the context of {longest} tokens is full: {forgotten} forgotten"]

    def _cut_beginning(self, messages: Sequence[Message], excess: int) -> list[Message]:
        """`messages` without the first `excess` tokens of the turns before the last message."""
        tokenizer = self.session.pair.tokenizer
        system = [message for message in messages if message.role == "system"]
        *earlier, last = (message for message in messages if message.role != "system")
        text = "".join(message.content for message in earlier)
        ids = tokenizer.encode(text, special=False)
        rest = tokenizer.decode(ids[excess:]).lstrip("\ufffd") if excess < len(ids) else ""
        cut = len(text) - len(rest)
        if not text.endswith(rest):  # the tokenizer does not decode every text to itself
            cut = len(text) * excess // len(ids)
        kept = []
        for message in earlier:
            kept.append(Message(message.role, message.content[cut:]))
            cut = max(0, cut - len(message.content))
        return [*system, *(kept if any(message.content for message in kept) else []), last]

    def _encode(self, messages: Sequence[Message]) -> _Encoded:
        """The text and ids of `messages`. Ids are kept up to the last mark before the text changes.

        Generated ids are not encoded again: a text has many encodings, and the caches hold the generated one. The text
        changes where a template rewrites history or a turn was deleted.
        """
        tokenizer = self.session.pair.tokenizer
        text = self._text(messages)
        same = len(os.path.commonprefix([self._encoded.text, text]))  # noqa: RUF071 - characters are meant
        marks = [mark for mark in self._encoded.marks if mark[0] <= same]
        characters, tokens = marks[-1]
        kept = self._encoded.context.prefix(tokens)
        new = text[characters:]
        ids = encode_raw(tokenizer, new) if self._plain and not characters else tokenizer.encode(new, special=False)
        # The template writes the end of the turn. The model has often generated it, as a token without text.
        last = kept.ids(tokens - 1) if tokens else []
        ended = last and ids[:1] == last and not tokenizer.decode(last)
        context = kept.grow(ids[1:] if ended else ids)
        return _Encoded(text, context, (*marks, (len(text), len(context))))

    @property
    def _plain(self) -> bool:
        """Whether the messages are one text without a chat template."""
        return self.raw or self.session.pair.tokenizer.chat_template is None

    def _text(self, messages: Sequence[Message]) -> str:
        if not self._plain:
            return chat_text(self.session.pair.tokenizer, messages, self.think)
        system = [f"{message.content}\n\n" for message in messages if message.role == "system"]
        return "".join([*system, *(message.content for message in messages if message.role != "system")])


def _without_oldest(messages: Sequence[Message], fewest: int) -> list[Message] | None:
    """`messages` without the first turn, None where only `fewest` turns are left."""
    users = [at for at, message in enumerate(messages) if message.role == "user"]
    return [*messages[: users[0]], *messages[users[1] :]] if len(users) > fewest else None
