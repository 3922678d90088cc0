"""Speed on held-out prompts: without a draft, with lookup, with the head, and with another draft."""

import statistics
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from specgen.core.events import Finished, Progress
from specgen.core.tokens import Tokens
from specgen.core.types import NONE, SamplingChoice
from specgen.session.session import Session
from specgen.train.answers import Question

# Prompts and tokens that are measured with each draft.
_PROMPTS = 8
_TOKENS = 96


@dataclass(frozen=True, slots=True)
class Speed:
    """One draft on the held-out prompts: the median speed-up over no draft, the least, and the mean tokens a round."""

    draft: str
    median: float
    least: float
    tokens_per_round: float


def compare(session: Session, drafts: Sequence[str], questions: Sequence[Question]) -> Iterator[Progress | Speed]:
    """Measure `drafts`, named as for Session, greedily, each between two runs without one. `session` must be open.

    Lookup drafts beside a head or a model, as it does in use.
    """
    chosen = questions[:_PROMPTS]
    before, _ = yield from _measure(session, NONE, chosen)
    for draft in drafts:
        rates, per_round = yield from _measure(session, draft, chosen)
        after, _ = yield from _measure(session, NONE, chosen)
        # The machine's speed drifts. The faster plain run is the one that a draft must beat.
        ratios = [mine / max(plain) for mine, *plain in zip(rates, before, after, strict=True)]
        yield Speed(draft, statistics.median(ratios), min(ratios), per_round)
        before = after


def _measure(
    session: Session, draft: str, questions: Sequence[Question]
) -> Generator[Progress, None, tuple[list[float], float]]:
    """Tokens a second of each answer with `draft`, and the mean tokens a round."""
    yield Progress(f"measuring {'no draft' if draft == NONE else draft}")
    for event in session.change_draft(draft):
        if isinstance(event, Progress):
            yield event
    rates, rounds, tokens = [], 0, 0
    for question in questions:
        stats = _answer(session, question).stats
        rates.append((stats.generated_tokens - 1) / max(1e-6, stats.elapsed_s - stats.time_to_first_token_s))
        rounds, tokens = rounds + stats.rounds, tokens + stats.generated_tokens
    return rates, tokens / max(1, rounds)


def _answer(session: Session, question: Question) -> Finished:
    greedy = SamplingChoice(temperature=0.0, top_k=0, top_p=1.0, min_p=0.0)
    found: Finished | None = None
    for event in session.run(Tokens(question.ids), greedy, _TOKENS):
        found = event if isinstance(event, Finished) else found
    assert found is not None, "run ends in Finished"  # noqa: S101
    return found
