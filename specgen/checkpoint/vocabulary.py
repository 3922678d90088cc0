"""Check that a draft shares the target's token ids.

Only ids pass between the two models, so only their meaning must agree. How each tokenizer splits text does not matter,
nor does vocab_size, which includes padding.
"""

import json
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from itertools import zip_longest

from specgen.checkpoint.byte_map import ByteMap
from specgen.checkpoint.tokenizer import Tokenizer
from specgen.core.errors import DraftMismatch

SHOWN = 3


@dataclass(frozen=True, slots=True)
class SharedVocabulary:
    """What a draft may propose: the first `leading` ids, or, for another vocabulary, the tokens of `translated`."""

    leading: int = 0
    translated: ByteMap | None = None


# Names of reserved tokens: <|reserved_special_token_2|>, <unused12>, <SPECIAL_7>.
_UNUSED = re.compile(
    r"(?<![a-z])(reserved|unused|placeholder|dummy|extra|(special|control)_\d+)(?![a-z])", re.IGNORECASE
)


def shared_range(target: Tokenizer, draft: Tokenizer) -> int:
    """The number of ids, counted from 0, that the draft may propose. Slice its logits to this length.

    A draft fits a target if every id that both have is the same token, every token that both have has the same id
    (special tokens included), and the draft has at least half of the target's tokens. Tokens of only one model are
    harmless: the draft never proposes those of the target, and its own are cut off or rejected.

    Raises DraftMismatch, which names the lowest differing ids.
    """
    target_ids, draft_ids = target.vocabulary(), draft.vocabulary()
    pairs = list(zip_longest(_by_id(target_ids), _by_id(draft_ids)))
    special = target.added_tokens() | draft.added_tokens()
    differing = [
        index
        for index, (ours, theirs) in enumerate(pairs)
        if ours != theirs
        and ((ours is not None and theirs is not None) or ours in draft_ids or theirs in target_ids)
        and not _unused(ours, theirs, special)
    ]
    if differing:
        shown = "; ".join(_difference(index, *pairs[index], target_ids, draft_ids) for index in differing[:SHOWN])
        more = len(differing) - SHOWN
        raise _mismatch(f"{shown}; and {more} more" if more > 0 else shown)
    shared = [index for index, (ours, theirs) in enumerate(pairs) if ours is not None and theirs is not None]
    if 2 * len(shared) < len(target_ids):
        raise _mismatch(f"it has only {len(shared)} of {len(target_ids)}")
    return max(shared, default=-1) + 1


def _unused(ours: str | None, theirs: str | None, special: Set[str]) -> bool:
    """Whether the tokens of an id are special in both models, and reserved in at least one."""
    tokens = [token for token in (ours, theirs) if token is not None]
    return all(token in special for token in tokens) and any(_UNUSED.search(token) for token in tokens)


def _by_id(vocabulary: Mapping[str, int]) -> list[str | None]:
    """The token of every id, None for unused ids."""
    tokens: list[str | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
    for token, index in vocabulary.items():
        tokens[index] = token
    return tokens


def _difference(
    index: int, ours: str | None, theirs: str | None, target_ids: Mapping[str, int], draft_ids: Mapping[str, int]
) -> str:
    """Both tokens of an id in words. If a model has none, the id at which it has the other's token."""
    target = _quoted(ours) if ours is not None else f"has it at {target_ids[theirs or '']}"
    draft = _quoted(theirs) if theirs is not None else f"has it at {draft_ids[ours or '']}"
    return f"id {index}: target {target}, draft {draft}"


def _quoted(token: str) -> str:
    return json.dumps(token, ensure_ascii=False)


def _mismatch(reason: str) -> DraftMismatch:
    return DraftMismatch(
        f"the draft does not share the target's tokens: {reason}",
        hint="choose a draft of the same family, or --draft lookup, or --draft none",
    )
