"""Drafts of another vocabulary: the map of tokens, the draft's context, and the same text."""

from functools import cache

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from specgen.checkpoint.byte_map import ByteMap
from specgen.checkpoint.tokenizer import Tokenizer
from specgen.core.errors import DraftMismatch
from specgen.core.tokens import Tokens
from specgen.core.types import SamplingParams
from specgen.engine.drafters.model import ModelDrafter
from specgen.engine.drafters.translation import Translation
from tests.fakes import VOCAB, TableModel, encode, rounds, tokenizer, tokens_of

PROMPT = encode("the lazy dog")


@cache
def other() -> Tokenizer:
    """A tokenizer with other ids, other words, and another name of the end token."""
    made = Backend(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["the lazy dog and the hot cat; a quick brown fox over the path"] * 3, trainer)
    return Tokenizer(made, special_tokens={"eos_token": "</s>"})


class Renamed(TableModel):
    """The target under the ids of the other vocabulary: its draft picks what the target picks."""

    def __init__(self, target: TableModel, tokens: ByteMap) -> None:
        super().__init__(len(other().vocabulary()))
        self._ours, self._theirs = (torch.from_numpy(ids) for ids in tokens.pairs)
        back = dict(zip(self._theirs.tolist(), self._ours.tolist(), strict=True))
        self._target, self._back = target, back

    def row(self, ids: list[int]) -> torch.Tensor:  # type: ignore[override]
        scores = torch.full((self.vocab_size,), -20.0)
        scores[self._theirs] = self._target.row([self._back.get(ids[-1], 0)])[self._ours]
        return scores


def test_equal_bytes_are_one_token_and_others_are_split() -> None:
    ours, theirs = tokenizer(), other()
    tokens = ByteMap(ours, theirs)
    for token in range(2, VOCAB):
        pieces = tokens.pieces(token)
        assert b"".join(map(theirs.token_bytes, pieces)) == ours.token_bytes(token)
        assert (tokens.draft_id(token) is not None) == (len(pieces) == 1)
    assert tokens.draft_id(0) == theirs.token_id("</s>"), "the end token, whatever its name"
    assert any(tokens.draft_id(token) is None for token in range(2, VOCAB)), "the test needs tokens that are split"
    assert tokens.overlap > 0.5


def test_a_draft_with_few_of_the_tokens_is_refused() -> None:
    few = Backend(models.WordLevel({"the": 0, **{f"word{each}": each for each in range(1, 9)}}, unk_token="the"))
    with pytest.raises(DraftMismatch, match="only 0% of the draft's tokens"):
        ByteMap(tokenizer(), Tokenizer(few))


def test_the_draft_reads_its_own_prompt_and_then_the_translated_answer() -> None:
    tokens = ByteMap(tokenizer(), other())
    translation = Translation(tokens, VOCAB)
    own = other().encode("User: the lazy dog", special=False)
    translation.begin(Tokens(PROMPT), own)
    said = encode(" and the answer")
    context = Tokens(PROMPT).grow(said)
    translated = [piece for token in said for piece in tokens.pieces(token)]
    assert translation.read(context).ids() == own + translated
    assert translation.read(context.prefix(len(PROMPT) + 1)).ids() == own + tokens.pieces(said[0])
    rewritten = translation.read(Tokens(said))
    assert rewritten.ids() == translated, "another prompt is translated"


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1.0, seed=5)])
def test_shared_tokens_are_accepted_and_the_text_is_the_same(params: SamplingParams) -> None:
    """Also with noise: the target's sampler picks from the translated scores."""
    target = TableModel(VOCAB, spread=3.0)
    tokens = ByteMap(tokenizer(), other())
    drafter = ModelDrafter(Renamed(target, tokens), 0, 1000, Translation(tokens, VOCAB))
    plain = tokens_of(rounds(target, PROMPT, params, new=60))
    drafted = rounds(target, PROMPT, params, new=60, drafter=drafter, k=4)
    assert tokens_of(drafted) == plain
    for each in drafted:
        if each.accepted < each.drafted:
            *_, before, rejected = each.context.ids()
            lacking = [token for token in (before, rejected) if tokens.draft_id(token) is None]
            assert lacking, "only what the draft cannot say or has read in pieces is rejected"
    assert sum(each.accepted for each in drafted) > 20
