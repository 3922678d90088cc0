"""The sampling and the end tokens that a model's own files recommend."""

import secrets
from collections.abc import Mapping
from typing import Any

from specgen.checkpoint.chat_template import render
from specgen.checkpoint.checkpoint import Checkpoint
from specgen.checkpoint.tokenizer import Tokenizer
from specgen.core.errors import BadFile, SpecgenError, UsageError
from specgen.core.types import Message, SamplingChoice, SamplingParams, check_sampling

_DRAWN_SEEDS = 1 << 31
_PROBE = "specgen"
_FILE = "generation_config.json"
_NARROWING = ("top_k", "top_p", "min_p")


def resolve_sampling(choice: SamplingChoice, recommended: Mapping[str, Any]) -> SamplingParams:
    """The user's choice, else the value of generation_config.json, else greedy decoding. A missing seed is drawn.

    As in transformers' `generate`, a recommended temperature needs `do_sample`; a repetition penalty always applies.
    Raises BadFile for a recommended value that makes no sense and that the user does not override.
    """
    chosen = {name: value for name in SamplingChoice.__slots__ if (value := getattr(choice, name)) is not None}
    samples = recommended.get("do_sample") or False
    if samples not in (False, True):
        raise BadFile(f"{_FILE}: do_sample is {samples!r}", hint="write true or false there")
    values: dict[str, Any] = {"seed": secrets.randbelow(_DRAWN_SEEDS)}
    if samples or chosen.keys() & set(_NARROWING):  # a narrowed distribution is meant for sampling
        values["temperature"] = 1.0
    for name in ("repetition_penalty", *(("temperature", *_NARROWING) if samples else ())):
        if name not in chosen and (value := recommended.get(name)) is not None:
            values[name] = _recommended(name, value)
    return SamplingParams(**(values | chosen))


def _recommended(name: str, value: object) -> float | int:
    try:
        return check_sampling(name, value)
    except UsageError as error:
        hint = f"{error.hint}: correct the file, or set {name} yourself"
        raise BadFile(f"{_FILE}: {error.message}", hint=hint) from error


def end_ids(checkpoint: Checkpoint, tokenizer: Tokenizer) -> frozenset[int]:
    """Ids that end an answer: of generation_config.json, else config.json, and of the chat template. Raises BadFile."""
    for config in (checkpoint.generation_config, checkpoint.config):
        if (stated := config.get("eos_token_id")) is not None:
            found = {stated} if isinstance(stated, int) else set(stated)
            break
    else:
        eos = tokenizer.token_id(tokenizer.special_tokens.get("eos_token", ""))
        found = set() if eos is None else {eos}
    if checkpoint.is_gguf:
        from specgen.checkpoint.gguf.tokenizer import end_ids as gguf_end_ids  # noqa: PLC0415  0.1 s, only for GGUF

        found |= gguf_end_ids(checkpoint.header, tokenizer)
    turn = _end_of_turn(tokenizer)
    return frozenset(found if turn is None else found | {turn})


def _end_of_turn(tokenizer: Tokenizer) -> int | None:
    """The id of the special token that the chat template writes after an answer, if any.

    Some generation_config.json omit it. Without it the model continues with the user's next turn.
    """
    if tokenizer.chat_template is None:
        return None
    messages = [Message("user", _PROBE), Message("assistant", _PROBE)]
    try:
        text = render(
            tokenizer.chat_template, messages, special_tokens=tokenizer.special_tokens, add_generation_prompt=False
        )
    except SpecgenError:
        return None
    after = (
        tokenizer.encode(text[text.rindex(_PROBE) + len(_PROBE) :].lstrip(), special=False) if _PROBE in text else []
    )
    return after[0] if after and tokenizer.decode(after[:1]) == "" else None
