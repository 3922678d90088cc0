"""Texts of which two models' predictions are compared, position by position."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

import specgen
from specgen.checkpoint.tokenizer import Tokenizer
from specgen.core.tokens import Tokens
from specgen.nn.interface import Runner

# The prose is a piece of The Road to Oz (L. Frank Baum, 1909); the code is what every installation has.
_FILES: Mapping[str, tuple[str, ...]] = {
    "prose": ("bench/prose.txt",),
    "code": ("engine/decode.py", "engine/sampling.py"),
}
KINDS = tuple(_FILES)
# Positions are compared in pieces: a row of scores is as wide as the vocabulary.
_PIECE = 128


def texts(kind: str, tokenizer: Tokenizer, longest: int) -> Iterator[list[int]]:
    """The ids of every text of a kind, `longest` of them at most."""
    for name in _FILES[kind]:
        text = (Path(specgen.__file__).parent / name).read_text(encoding="utf-8")
        yield tokenizer.encode(text, special=True)[:longest]


def score_both(one: Runner, other: Runner, ids: list[int]) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """The logits [rows, vocab] of two models after every token but the last: position, rows of one, rows of other."""
    context = Tokens(ids)
    for start in range(0, len(ids) - 1, _PIECE):
        end = min(start + _PIECE, len(ids) - 1)
        rows, others = (each.forward(context.prefix(end), end - start) for each in (one, other))
        yield start, rows, others
