"""The loop: propose, verify, emit. One round is one forward pass of the target."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from specgen.engine.interfaces import Drafter, LanguageModel, Plan
from specgen.engine.sampling import Sampler
from specgen.engine.tokens import Tokens
from specgen.engine.verify import verify
from specgen.events import Reason, Source


@dataclass(frozen=True, slots=True)
class Round:
    """What one forward pass of the target settled.

    `context` ends with `tokens`. `finish` is set in the last round. Times are in seconds.
    """

    context: Tokens
    tokens: tuple[int, ...]
    sources: tuple[Source, ...]
    drafted: int
    accepted: int
    draft_s: float
    verify_s: float
    finish: Reason | None


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop: at the first of `end_ids`, or when the context has `length` tokens, for `reason`."""

    length: int
    reason: Reason
    end_ids: frozenset[int]


def decode(
    target: LanguageModel,
    drafter: Drafter,
    context: Tokens,
    sampler: Sampler,
    limits: Limits,
    num_draft_tokens: int,
) -> Iterator[Round]:
    """Generate after `context` until `limits` says stop; the caller may close the generator after any round.

    The tokens are those that `sampler` picks from the target's logits one by one: speculative decoding (Leviathan et
    al. 2023, Chen et al. 2023) with the acceptance rule of verify.py. `len(context)` must be below `limits.length`.
    """
    finish: Reason | None = None
    while finish is None:
        start = time.perf_counter()
        room = limits.length - len(context)
        plan = Plan(min(num_draft_tokens, room - 1), sampler, limits.end_ids)
        proposal = drafter.propose(context, plan)
        drafted_at = time.perf_counter()
        rows = target.forward(context + proposal.tokens, len(proposal.tokens) + 1)
        verdict = verify(proposal, sampler.pick(rows.logits, context, proposal.tokens))
        verified_at = time.perf_counter()
        drafter.observe(verdict)
        tokens, sources = verdict.tokens, verdict.sources
        # The end token cuts an accepted run before any limit is looked at.
        end = next((i for i, token in enumerate(tokens) if token in limits.end_ids), None)
        if end is not None:
            tokens, sources, finish = tokens[: end + 1], sources[: end + 1], "end"
        elif len(tokens) == room:
            finish = limits.reason
        context = context.grow(tokens)
        yield Round(
            context=context,
            tokens=tokens,
            sources=sources,
            drafted=len(proposal.tokens),
            accepted=min(verdict.accepted, len(tokens)),
            draft_s=drafted_at - start,
            verify_s=verified_at - drafted_at,
            finish=finish,
        )
