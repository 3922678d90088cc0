"""From messages and texts to token ids: the beginning of a text, and an answer that is to be continued."""

from collections.abc import Sequence

import pytest
from tokenizers.processors import TemplateProcessing

from specgen.checkpoint.tokenizer import Tokenizer
from specgen.core.errors import UsageError
from specgen.core.types import Message
from specgen.engine.text.thinking import Tags
from specgen.session.prompt import chat_prompt, raw_prompt
from tests.fakes import CHAT_TEMPLATE, END, START, backend, encode, tokenizer

THINKING = CHAT_TEMPLATE + "{# <think> </think> #}"


def with_bos(*, end: bool = False) -> Tokenizer:
    """A tokenizer that writes START before a text, and END after it."""
    made = type(backend()).from_str(backend().to_str())
    ids = [(START, encode(START)[0]), (END, encode(END)[0])]
    made.post_processor = TemplateProcessing(single=f"{START} $A" + f" {END}" * end, special_tokens=ids)
    return Tokenizer(made)


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("begun", ["", START])
def test_the_beginning_of_text_stands_once(begun: str, end: bool) -> None:
    expected = [*encode(START), *encode("hello"), *(encode(END) if end else [])]
    assert list(raw_prompt(with_bos(end=end), f"{begun}hello").ids) == expected


def test_two_that_were_written_stay_two() -> None:
    assert list(raw_prompt(with_bos(), f"{START}{START}hello").ids) == encode(f"{START}{START}hello")
    assert list(raw_prompt(tokenizer(None), f"{START}{START}hello").ids) == encode(f"{START}{START}hello")


def turns(*contents: str) -> list[Message]:
    return [Message(("user", "assistant")[at % 2], content) for at, content in enumerate(contents)]


@pytest.mark.parametrize("content", ["the fox", "the fox ", "  the fox", "the fox\n\n"])
@pytest.mark.parametrize("trim", [False, True])
def test_a_last_message_of_the_assistant_is_left_open(content: str, trim: bool) -> None:
    """Also where the template strips it, or where the user said the same."""
    template = CHAT_TEMPLATE.replace("message.content", "message.content | trim") if trim else CHAT_TEMPLATE
    kept = content.strip() if trim else content
    prompt = chat_prompt(tokenizer(template), turns("the fox", content))
    assert prompt.text == f"<|start|>user\nthe fox<|end|>\n<|start|>assistant\n{kept}"
    assert list(prompt.ids) == encode(prompt.text)


@pytest.mark.parametrize("content", ["", " \n"])
def test_an_empty_one_is_an_answer_that_has_not_begun(content: str) -> None:
    assert chat_prompt(tokenizer(), turns("hello", content)) == chat_prompt(tokenizer(), turns("hello"))


def test_without_a_template_the_text_goes_on() -> None:
    assert chat_prompt(tokenizer(None), turns("hello", "the fo")).text == "hello\n\nthe fo"


def test_an_answer_that_the_template_rewrites_cannot_be_continued() -> None:
    template = CHAT_TEMPLATE.replace("message.content", "message.content | upper")
    with pytest.raises(UsageError, match="cannot be continued"):
        chat_prompt(tokenizer(template), turns("hello", "the fox"))


@pytest.mark.parametrize(
    ("contents", "opened", "off"),
    [
        (["hello"], False, False),
        (["hello", "<think>the fox"], True, False),
        (["hello", "<think>the fox</think> jumps"], False, True),
        (["<think>", "the fox"], False, True),
    ],
)
def test_thinking_that_is_open_or_over_is_told(contents: Sequence[str], opened: bool, off: bool) -> None:
    expected = Tags("<think>", "</think>", opened=opened, off=off)
    assert chat_prompt(tokenizer(THINKING), turns(*contents)).thinking == expected
