"""Speed on held-out prompts: without a draft, with lookup, with the head, and with another draft."""

import statistics
from collections.abc import Iterator, Sequence
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
    """Measure `drafts`, named as for Session, greedily and one after the other. `session` must be open."""
    chosen = questions[:_PROMPTS]
    plain: list[float] = []
    for draft in (NONE, *drafts):
        yield Progress(f"measuring {'no draft' if draft == NONE else draft}")
        for event in session.change_draft(draft):
            if isinstance(event, Progress):
                yield event
        rates, rounds, tokens = [], 0, 0
        for question in chosen:
            done = _answer(session, question)
            stats = done.stats
            rates.append((stats.generated_tokens - 1) / max(1e-6, stats.elapsed_s - stats.time_to_first_token_s))
            rounds, tokens = rounds + stats.rounds, tokens + stats.generated_tokens
        if draft == NONE:
            plain = rates
            continue
        ratios = [mine / without for mine, without in zip(rates, plain, strict=True)]
        yield Speed(draft, statistics.median(ratios), min(ratios), tokens / max(1, rounds))


def _answer(session: Session, question: Question) -> Finished:
    greedy = SamplingChoice(temperature=0.0, top_k=0, top_p=1.0, min_p=0.0)
    found: Finished | None = None
    for event in session.run(Tokens(question.ids), greedy, _TOKENS):
        found = event if isinstance(event, Finished) else found
    assert found is not None, "run ends in Finished"  # noqa: S101
    return found
