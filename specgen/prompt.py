"""From messages to the ids that the target reads."""

from collections.abc import Sequence
from dataclasses import dataclass

from specgen.core import Message
from specgen.errors import PromptTooLong
from specgen.models.chat_template import render
from specgen.models.tokenizer import Tokenizer

# Characters that are encoded at a time where a text may be far too long, and the tokens that a cut may add there.
_PIECE = 1 << 16
_CUT = 2


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


def is_long(text: str) -> bool:
    """Whether `text` may be far too long for a context."""
    return len(text) > _PIECE


def refuse_long(tokenizer: Tokenizer, text: str, longest: int) -> None:
    """Raise PromptTooLong where `text` alone has surely more than `longest` tokens.

    Reads no more of it than that takes; a text that just does not fit is found out when all of it is encoded.
    """
    if not is_long(text):
        return
    count = 0
    for start in range(0, len(text), _PIECE):
        count += max(0, len(tokenizer.encode(text[start : start + _PIECE], special=False)) - _CUT)
        if count > longest:
            about = 1000 * round(count * len(text) / min(len(text), start + _PIECE) / 1000)
            raise too_long(f"about {about}", longest)


def too_long(tokens: str, longest: int) -> PromptTooLong:
    """The error for a prompt of so many `tokens`, in words."""
    return PromptTooLong(
        f"the prompt has {tokens} tokens and the context holds {longest}",
        hint="shorten it, or raise --ctx-size if the model allows",
    )
