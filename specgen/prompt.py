"""From messages to the ids that the target reads."""

from collections.abc import Sequence
from dataclasses import dataclass

from specgen.core import Message
from specgen.models.chat_template import render
from specgen.models.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text and the ids of a prompt; `notice` is what the user should know about how it was made."""

    text: str
    ids: tuple[int, ...]
    notice: str = ""


def raw_prompt(tokenizer: Tokenizer, text: str) -> Prompt:
    """`text` as it is, for plain completion."""
    return Prompt(text, tuple(tokenizer.encode(text, special=True)))


def chat_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> Prompt:
    """`messages` in the model's chat template, up to where the answer begins; joined as plain text without one."""
    if tokenizer.chat_template is None:
        prompt = raw_prompt(tokenizer, "\n\n".join(message.content for message in messages))
        notice = "this model has no chat template: it continues the text"
        return Prompt(prompt.text, prompt.ids, notice if len(messages) > 1 else "")
    text = render(
        tokenizer.chat_template, messages, special_tokens=tokenizer.special_tokens, add_generation_prompt=True
    )
    return Prompt(text, tuple(tokenizer.encode(text, special=False)))
