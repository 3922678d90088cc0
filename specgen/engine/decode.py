"""The decoding loop: propose, verify, emit. One round is one forward pass of the target."""

from collections.abc import Iterator
from dataclasses import dataclass

from specgen.core.events import Reason, Source
from specgen.core.tokens import Tokens
from specgen.engine.drafters.interface import Drafter
from specgen.engine.pacing.controller import Controller
from specgen.engine.sampling.sampler import Sampler, Scores, log_probabilities
from specgen.engine.verify import verify
from specgen.nn.interface import LanguageModel


@dataclass(frozen=True, slots=True)
class Round:
    """The result of one forward pass of the target.

    context: the whole text so far, which ends with `tokens`. drafted_tokens, drafted_sources: all drafted tokens with
    their sources, accepted or not. draft_s, verify_s: seconds. finish: the reason to stop, in the last round only.
    notice: a line for the user. scores: one for each of `tokens`, if log-probabilities were requested.
    """

    context: Tokens
    tokens: tuple[int, ...]
    sources: tuple[Source, ...]
    drafted: int
    accepted: int
    draft_s: float
    verify_s: float
    finish: Reason | None
    drafted_tokens: tuple[int, ...] = ()
    drafted_sources: tuple[Source, ...] = ()
    notice: str | None = None
    scores: tuple[Scores, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop: at the first of `end_ids`, or with `reason` when the context has `length` tokens."""

    length: int
    reason: Reason
    end_ids: frozenset[int]


def decode(
    target: LanguageModel,
    drafter: Drafter,
    context: Tokens,
    sampler: Sampler,
    limits: Limits,
    controller: Controller,
    logprobs: int | None = None,
) -> Iterator[Round]:
    """Generate after `context` until `limits`. The caller may close the generator after any round.

    Speculative decoding (Leviathan et al. 2023, Chen et al. 2023) with the acceptance rule of verify.py: the tokens are
    those that `sampler` picks from the target's logits without a draft. `len(context)` must be below `limits.length`.
    With `logprobs` rounds have scores with that many likeliest tokens each. Raises NonFiniteLogits.
    """
    finish: Reason | None = None
    clock = controller.clock
    controller.begin(context)
    target.begin_answer()
    while finish is None:
        room = limits.length - len(context)
        plan = controller.plan(context, room, sampler, limits.end_ids)
        start = clock()
        proposal = drafter.propose(context, plan)
        drafted_at = clock()
        logits = target.forward(context + proposal.tokens, len(proposal.tokens) + 1)
        verdict = verify(proposal, sampler.pick(logits, context, proposal.tokens))
        verified_at = clock()
        notice = controller.observe(verdict, drafted_at - start, verified_at - drafted_at)
        tokens, sources = verdict.tokens, verdict.sources
        # The end token counts before the limit.
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
            drafted_tokens=proposal.tokens,
            drafted_sources=proposal.sources,
            notice=notice,
            scores=() if logprobs is None else log_probabilities(logits, tokens, logprobs),
        )
