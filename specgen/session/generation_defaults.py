"""The sampling and the end tokens that a model's own files recommend."""

import secrets
from collections.abc import Mapping
from typing import Any

from specgen.checkpoint.chat_template import render
from specgen.checkpoint.checkpoint import Checkpoint
from specgen.checkpoint.tokenizer import Tokenizer
from specgen.core.errors import SpecgenError
from specgen.core.types import Message, SamplingChoice, SamplingParams

_DRAWN_SEEDS = 1 << 31
_PROBE = "specgen"


def resolve_sampling(choice: SamplingChoice, recommended: Mapping[str, Any]) -> SamplingParams:
    """The user's choice, else the value of generation_config.json, else greedy decoding. A missing seed is drawn.

    As in transformers' `generate`, a recommended temperature needs `do_sample`; a repetition penalty always applies.
    """
    chosen = {name: value for name in SamplingChoice.__slots__ if (value := getattr(choice, name)) is not None}
    values: dict[str, Any] = {}
    if recommended.get("do_sample"):
        values["temperature"] = 1.0
        names = ("temperature", "top_k", "top_p", "min_p")
        values |= {name: value for name in names if (value := recommended.get(name)) is not None}
    elif chosen.keys() & {"top_k", "top_p", "min_p"}:
        values["temperature"] = 1.0  # a narrowed distribution is meant for sampling
    if (penalty := recommended.get("repetition_penalty")) is not None:
        values["repetition_penalty"] = float(penalty)
    values["seed"] = secrets.randbelow(_DRAWN_SEEDS)
    return SamplingParams(**(values | chosen))


def end_ids(checkpoint: Checkpoint, tokenizer: Tokenizer) -> frozenset[int]:
    """Ids that end an answer: of generation_config.json, else config.json, and of the chat template."""
    for config in (checkpoint.generation_config, checkpoint.config):
        ids = config.get("eos_token_id")
        if ids is not None:
            found = {ids} if isinstance(ids, int) else set(ids)
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
