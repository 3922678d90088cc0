"""A map between the tokens of two vocabularies by equal bytes, for a draft of another family."""

from functools import cached_property

import numpy as np
import numpy.typing as npt

from specgen.checkpoint.tokenizer import Tokenizer
from specgen.core.errors import DraftMismatch

_FLOOR = 0.5
"""Least share of the draft's tokens that the target has. The draft often picks one of the others below it."""
_LONGEST = 64  # bytes of a token that are tried when bytes are split into tokens


class ByteMap:
    """Which token of the target has the bytes of which token of the draft. Special tokens match by name.

    The end token of the draft is that of the target, whatever their names. Raises DraftMismatch if the target has less
    than half of the draft's tokens.
    """

    def __init__(self, target: Tokenizer, draft: Tokenizer) -> None:
        self.draft_tokenizer = draft
        self._target = target
        theirs = _by_bytes(draft)
        pairs = {ours: theirs[key] for key, ours in _by_bytes(target).items() if key in theirs}
        ends = [each.token_id(each.special_tokens.get("eos_token", "")) for each in (target, draft)]
        if ends[0] is not None and ends[1] is not None:
            pairs.setdefault(ends[0], ends[1])
        self._draft_of = pairs
        self._pieces = {text: token for (text, special), token in theirs.items() if not special}
        self.overlap = len(pairs) / max(1, len(draft.vocabulary()))
        """The share of the draft's tokens that the target has."""
        if self.overlap < _FLOOR:
            raise DraftMismatch(
                f"the target has only {self.overlap:.0%} of the draft's tokens, and a draft needs {_FLOOR:.0%}",
                hint="choose another draft, or --draft lookup",
            )

    @cached_property
    def pairs(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(target ids, draft ids) of equal tokens, both int64 [pairs]."""
        items = sorted(self._draft_of.items())
        return np.array([ours for ours, _ in items]), np.array([theirs for _, theirs in items])

    def draft_id(self, token: int) -> int | None:
        """The draft's token with the bytes of the target's `token`, None without one."""
        return self._draft_of.get(token)

    def pieces(self, token: int) -> list[int]:
        """The draft's tokens for the target's `token`: the equal one, or the longest ones that make its bytes."""
        same = self._draft_of.get(token)
        if same is not None:
            return [same]
        text, at = self._target.token_bytes(token), 0
        found: list[int] = []
        while at < len(text):
            ends = range(min(len(text), at + _LONGEST), at, -1)
            end = next((end for end in ends if text[at:end] in self._pieces), 0)
            if end:
                found.append(self._pieces[text[at:end]])
            at = end or at + 1  # the draft has no token for this byte
        return found


def _by_bytes(tokenizer: Tokenizer) -> dict[tuple[bytes, bool], int]:
    """(bytes, whether it is an added token) -> the lowest id with them."""
    added = tokenizer.added_tokens()
    found: dict[tuple[bytes, bool], int] = {}
    for text, token in sorted(tokenizer.vocabulary().items(), key=lambda item: item[1]):
        found.setdefault((tokenizer.token_bytes(token), text in added), token)
    return {key: token for key, token in found.items() if key[0]}
