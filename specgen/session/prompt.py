"""Turn messages into the token ids that the target reads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from specgen.checkpoint.byte_map import ByteMap
from specgen.checkpoint.chat_template import render
from specgen.checkpoint.checkpoint import Checkpoint
from specgen.checkpoint.drafter_format import is_head
from specgen.checkpoint.tokenizer import Tokenizer
from specgen.checkpoint.vocabulary import SharedVocabulary, shared_range
from specgen.core.errors import DraftMismatch, PromptTooLong, UsageError
from specgen.core.types import EngineOptions, Message
from specgen.engine.text.thinking import Tags

_TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
)
# Template variables that switch thinking: Qwen3, SmolLM3 and GLM; DeepSeek V3.1.
_SWITCHES = ("enable_thinking", "thinking")
# A long text is encoded in pieces of this many characters; a cut adds at most _CUT tokens.
_PIECE = 1 << 16
_CUT = 2


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text and the ids of a prompt. `notice` is a sentence for the user, or empty.

    `thinking` has the tags of a reasoning model.
    """

    text: str
    ids: tuple[int, ...]
    notice: str = ""
    thinking: Tags | None = None


def raw_prompt(tokenizer: Tokenizer, text: str) -> Prompt:
    """`text` without a chat template, for plain completion."""
    return Prompt(text, tuple(encode_raw(tokenizer, text)))


def encode_raw(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text without a chat template. The tokenizer's BOS is added unless the text begins with it."""
    ids = tokenizer.encode(text, special=True)
    bos = tokenizer.encode("", special=True)[:1]
    return ids[1:] if bos and ids[:2] == bos * 2 else ids


def chat_prompt(tokenizer: Tokenizer, messages: Sequence[Message], think: bool | None = None) -> Prompt:
    """`messages` in the model's chat template up to the answer, or joined as plain text without a template.

    `think` switches thinking on or off where the template can; None leaves the template's default.
    """
    if tokenizer.chat_template is None:
        prompt = raw_prompt(tokenizer, "\n\n".join(message.content for message in messages))
        notice = "this model has no chat template: it continues the text"
        return Prompt(prompt.text, prompt.ids, notice if len(messages) > 1 else "")
    text = chat_text(tokenizer, messages, think)
    tags = thinking_tags(tokenizer, text, think)
    begun = _begun_answer(messages)
    if tags and begun:
        opened = begun.rfind(tags.open) > begun.rfind(tags.close)
        tags = replace(tags, opened=opened, off=not opened)
    return Prompt(text, tuple(tokenizer.encode(text, special=False)), explain_think(tokenizer, think), tags)


def chat_text(tokenizer: Tokenizer, messages: Sequence[Message], think: bool | None = None) -> str:
    """`messages` in the model's chat template, up to where the answer begins. The model must have one.

    A last message of the assistant is left open, so that the model continues it.
    """
    assert tokenizer.chat_template is not None, "checked by the caller"  # noqa: S101
    switches = {} if think is None else dict.fromkeys(_SWITCHES, think)
    begun = _begun_answer(messages).strip()
    if not begun and messages and messages[-1].role == "assistant":
        messages = messages[:-1]
    text = render(
        tokenizer.chat_template,
        messages,
        special_tokens=tokenizer.special_tokens,
        add_generation_prompt=not begun,
        **switches,
    )
    if not begun:
        return text
    end = text.rfind(begun)
    if end < 0:
        raise UsageError(
            "the model's chat template changes the last message of the assistant, so it cannot be continued",
            hint="end with a message of the user",
        )
    return text[: end + len(begun)] + _trailing_space(messages[-1].content, text[end + len(begun) :])


def _begun_answer(messages: Sequence[Message]) -> str:
    """The content of a last message of the assistant, which the model continues; "" for another last message."""
    return messages[-1].content if messages and messages[-1].role == "assistant" else ""


def _trailing_space(content: str, rest: str) -> str:
    """The white space after `content` that the template kept at the start of `rest`."""
    space = content[len(content.rstrip()) :]
    return space if space and rest.startswith(space) else ""


def thinking_tags(tokenizer: Tokenizer, prompt: str, think: bool | None = None) -> Tags | None:
    """The tags around the model's thinking, None if neither its template nor its vocabulary has any.

    `prompt` is the rendered prompt; `think` is the user's wish, None without one.
    """
    before = prompt.rstrip()
    for begin, end in _TAGS:
        opened = before.endswith(begin)
        if opened or end in (tokenizer.chat_template or "") or tokenizer.token_id(end) is not None:
            # A template that switches thinking off ends the prompt with empty thinking.
            return Tags(begin, end, opened, off=before.endswith(end) or (think is False and not opened))
    return None


def explain_think(tokenizer: Tokenizer, think: bool | None) -> str:
    """A sentence for a user who set `think` for a template without a switch, else empty."""
    template = tokenizer.chat_template or ""
    if think is None or any(switch in template for switch in _SWITCHES):
        return ""
    return "this model's chat template cannot switch thinking on or off"


def refuse_long(tokenizer: Tokenizer, text: str, longest: int) -> None:
    """Raise PromptTooLong where `text` has certainly more than `longest` tokens, without encoding all of it.

    A text that barely exceeds the limit passes; encoding the whole prompt finds it.
    """
    if len(text) <= _PIECE:
        return
    count = 0
    for start in range(0, len(text), _PIECE):
        count += max(0, len(tokenizer.encode(text[start : start + _PIECE], special=False)) - _CUT)
        if count > longest:
            about = 1000 * round(count * len(text) / min(len(text), start + _PIECE) / 1000)
            raise PromptTooLong(
                f"the prompt has about {about} tokens and the context holds {longest}", hint="shorten it"
            )


def check_length(prompt_tokens: int, context_length: int, options: EngineOptions) -> None:
    """Raise UsageError for an empty prompt, PromptTooLong for one that leaves no token for the answer."""
    if prompt_tokens == 0:
        raise UsageError("the prompt is empty", hint="give the model something to read")
    if prompt_tokens >= context_length:
        raise PromptTooLong(
            f"the prompt has {prompt_tokens} tokens and the context holds {context_length}",
            hint="shorten it" if options.ctx_size is None else "shorten it, or raise --ctx-size if the model allows",
        )


def compare_tokenizers(
    target: Checkpoint, draft: Checkpoint | None, options: EngineOptions, *, translate: bool = False
) -> tuple[Tokenizer, SharedVocabulary]:
    """The target's tokenizer and what both models share. Raises DraftMismatch.

    With `translate` a draft of another vocabulary is compared by the bytes of its tokens. A head has no tokenizer: it
    proposes the target's own tokens.
    """
    tokenizer = read_tokenizer(target, options)
    if draft is None or is_head(draft):
        return tokenizer, SharedVocabulary()
    if target.is_gguf and draft.is_gguf:
        from specgen.checkpoint.gguf.tokenizer import share_tokenizer  # noqa: PLC0415  0.1 s, only for GGUF

        if share_tokenizer(target.header, draft.header):  # reading and comparing a second one would take a second
            return tokenizer, SharedVocabulary(tokenizer.size)
    of_draft = read_tokenizer(draft, options)
    try:
        return tokenizer, SharedVocabulary(shared_range(tokenizer, of_draft))
    except DraftMismatch:
        if not translate:
            raise
    return tokenizer, SharedVocabulary(translated=ByteMap(tokenizer, of_draft))


def tokenizer_warning(checkpoint: Checkpoint) -> str:
    """What to tell the user of a tokenizer that may split text wrongly, else "". Raises BadFile."""
    if not checkpoint.is_gguf:
        return ""
    from specgen.checkpoint.gguf.tokenizer import pre_tokenizer_warning  # noqa: PLC0415  0.1 s, only for GGUF

    return pre_tokenizer_warning(checkpoint.header)


def read_tokenizer(checkpoint: Checkpoint, options: EngineOptions) -> Tokenizer:
    """Read a tokenizer from a model's small files or GGUF header. Raises BadFile, UnsupportedModel."""
    if checkpoint.is_gguf:
        from specgen.checkpoint.gguf.tokenizer import read_tokenizer as read_gguf  # noqa: PLC0415 - takes 0.1 s, only for GGUF

        tokenizer = read_gguf(checkpoint.header)
    else:
        tokenizer = Tokenizer.from_folder(checkpoint.path)
    if tokenizer is not None:
        return tokenizer
    from specgen.nn.transformers.model import convert_tokenizer  # noqa: PLC0415 - takes seconds, and few models need it

    return convert_tokenizer(checkpoint, trust_remote_code=options.trust_remote_code)
