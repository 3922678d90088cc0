"""Events of a short run."""

from itertools import pairwise

from specgen.core.events import Drafted, Event, Finished, LoadedModel, Reason, Span, Started, Stats, Step
from specgen.core.types import SamplingParams

STARTED = Started(
    target=LoadedModel("org/big", "0123456789abcdef", "mit", {"model.safetensors": "0" * 64}),
    draft=LoadedModel("org/small", None),
    drafter="model",
    device="cpu",
    dtype="float32",
    quant="none",
    sampling=SamplingParams(temperature=0.7, seed=123),
    num_draft_tokens=4,
    prompt_tokens=12,
)
STATS = Stats(
    prompt_tokens=12,
    generated_tokens=128,
    rounds=32,
    drafted_tokens=123,
    accepted_tokens=96,
    draft_s=1.0,
    verify_s=4.0,
    time_to_first_token_s=0.42,
    first_round_tokens=1,
    elapsed_s=6.47,
    accepted_lengths=(1, 4, 6, 4, 12, 0, 2, 0, 1),
    drafted_lengths=(0, 0, 1, 9, 14, 0, 5, 0, 1),
    by_source={"draft": Drafted(103, 79), "lookup": Drafted(20, 17)},
    one_token_s=(0.08, 0.085),
)


def step(text: str, number: int = 3) -> Step:
    spans = (Span(text, "draft"),) if text else ()
    return Step(tuple(range(number)), spans, drafted=4, accepted=number - 1, draft_s=0.01, verify_s=0.02)


def run(text: str, size: int = 7, reason: Reason = "end") -> list[Event]:
    """A run that streams `text` in pieces of `size` characters."""
    ends = [*range(0, len(text), size), len(text)]
    pieces = [text[start:end] for start, end in pairwise(ends)]
    return [STARTED, *(step(piece) for piece in pieces), Finished(reason, text, STATS)]
