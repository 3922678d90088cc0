"""A chat: turns that reuse what was computed, and keep the ids that were generated."""

from collections.abc import Generator, Iterator, Sequence
from typing import Any

from specgen.core import Constraint, Message, SamplingChoice
from specgen.engine.tokens import Tokens
from specgen.events import Event, Finished, Notice, Started, Step
from specgen.prompt import chat_prompt
from specgen.session import Session, failing


class Conversation:
    """The turns so far. An answer that was stopped is kept as far as it came; a turn that failed leaves no trace."""

    def __init__(
        self,
        session: Session,
        *,
        system: str | None = None,
        sampling: SamplingChoice | None = None,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        constraint: Constraint | None = None,
    ) -> None:
        self._session = session
        self._system = system
        self._options: dict[str, Any] = {
            "sampling": sampling,
            "max_new_tokens": max_new_tokens,
            "stop": stop,
            "constraint": constraint,
        }
        self.clear()

    def clear(self) -> None:
        """Forget every turn; the system prompt stays."""
        self.messages = [Message("system", self._system)] if self._system else []
        self.started: Started | None = None
        self.finished: Finished | None = None
        self._context = Tokens()
        self._text = ""

    def say(self, text: str) -> Iterator[Event]:
        """The user's next turn, and the stream of the answer to it."""
        return failing(self._turn(text))

    def _turn(self, text: str) -> Generator[Event, None, None]:
        yield from self._session.open()
        first = not any(message.role == "user" for message in self.messages)
        tokenizer = self._session.pair.tokenizer
        if first and tokenizer.chat_template is None:
            yield Notice("this model has no chat template: it continues the conversation as plain text")
        messages = [*self.messages, Message("user", text)]
        prompt_text, context = self._prompt(messages)
        generated: list[int] = []
        answer: list[str] = []
        try:
            for event in self._session.run(context, **self._options):
                if isinstance(event, Step):
                    generated += event.tokens
                    answer.append(event.text)
                elif isinstance(event, Started):
                    self.started = event
                elif isinstance(event, Finished):
                    self.finished = event
                yield event
        except Exception:
            generated.clear()
            raise
        finally:
            # Also when the reader left in the middle: what was shown was said.
            if generated:
                said = "".join(answer)
                self.messages = [*messages, Message("assistant", said)]
                # A stop string, or text that was still held back, is in the ids and was never shown.
                whole = tokenizer.decode(generated) == said
                self._context = context.grow(generated if whole else tokenizer.encode(said, special=False))
                self._text = prompt_text + said

    def _prompt(self, messages: Sequence[Message]) -> tuple[str, Tokens]:
        """The text and the ids of the conversation with `messages`, the ids so far kept where the text is the same.

        Generated ids are kept rather than encoded again: text has many encodings, and only the ids that were
        generated are in the models' caches. A template that rewrites history changes the text; then only what stands
        before the change is kept.
        """
        tokenizer = self._session.pair.tokenizer
        if tokenizer.chat_template is None:
            new = messages[-1].content if self._text else "\n\n".join(message.content for message in messages)
            return self._text + new, self._context.grow(tokenizer.encode(new, special=not self._text))
        prompt = chat_prompt(tokenizer, messages)
        if self._text and prompt.text.startswith(self._text):
            new_ids = tokenizer.encode(prompt.text[len(self._text) :], special=False)
            # The template writes the end of the turn; the model has mostly said it already, as a token without text.
            last = self._context.ids(len(self._context) - 1)
            ended = new_ids[:1] == last and not tokenizer.decode(last)
            return prompt.text, self._context.grow(new_ids[1:] if ended else new_ids)
        kept = self._context.common_prefix(Tokens(prompt.ids))
        return prompt.text, self._context.prefix(kept).grow(prompt.ids[kept:])
