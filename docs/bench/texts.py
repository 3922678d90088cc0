"""Texts on which the predictions of two models are compared: prose and code. Used by coupling.py and fidelity.py."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

import specgen
from specgen import Session
from specgen.checkpoint.tokenizer import Tokenizer
from specgen.core.tokens import Tokens
from specgen.core.types import EngineOptions
from specgen.nn.interface import Runner
from specgen.session.pair import Pair

PACKAGE = Path(specgen.__file__).parent
# The prose is from The Road to Oz (L. Frank Baum, 1909).
FILES: Mapping[str, tuple[Path, ...]] = {
    "prose": (Path(__file__).parent / "prose.txt",),
    "code": (PACKAGE / "engine" / "decode.py", PACKAGE / "engine" / "sampling" / "sampler.py"),
}
PIECE = 128  # positions scored at once: a row of scores is as wide as the vocabulary


def load(target: str, draft: str, options: EngineOptions) -> Pair:
    """Load a pair and print what it says."""
    session = Session(target, draft, options)
    for event in session.open():
        print(f"  {getattr(event, 'text', event)}", flush=True)
    return session.pair


def texts(kind: str, tokenizer: Tokenizer, longest: int) -> Iterator[list[int]]:
    """Yield the ids of each text of a kind, at most `longest`."""
    for file in FILES[kind]:
        yield list(tokenizer.encode(file.read_text(encoding="utf-8"), special=True)[:longest])


def score_both(one: Runner, other: Runner, ids: list[int]) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Yield position, logits [rows, vocab] of `one` and of `other` after every token but the last."""
    context = Tokens(ids)
    for start in range(0, len(ids) - 1, PIECE):
        end = min(start + PIECE, len(ids) - 1)
        rows, others = (each.forward(context.prefix(end), end - start) for each in (one, other))
        yield start, rows, others
