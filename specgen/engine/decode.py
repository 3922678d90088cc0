"""The decoding loop: propose, verify, emit. Answers that are open at once share rounds."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from specgen.core.errors import SpecgenError
from specgen.core.events import Reason, Source
from specgen.core.tokens import Tokens
from specgen.engine.drafters.interface import Drafter, Proposal
from specgen.engine.pacing.controller import Controller
from specgen.engine.sampling.sampler import Sampler, Scores, log_probabilities
from specgen.engine.verify import verify
from specgen.nn.interface import ForwardCall, LanguageModel

# Prompt tokens that are read in one round beside other answers, so that these do not wait for a long prompt.
PIECE = 256


@dataclass(frozen=True, slots=True)
class Round:
    """The result of one forward pass of the target.

    context: the whole text so far, which ends with `tokens`. drafted_tokens, drafted_sources: all drafted tokens with
    their sources, accepted or not. draft_s, verify_s: seconds. finish: the reason to stop, in the last round only.
    notice: a line for the user. scores: one for each of `tokens`, if log-probabilities were requested. round_s: seconds
    since the round before, without the time in which the caller asked for nothing.
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
    round_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop: at the first of `end_ids`, or with `reason` when the context has `length` tokens."""

    length: int
    reason: Reason
    end_ids: frozenset[int]


@dataclass(slots=True, eq=False)
class _Member:
    """An answer, its finished rounds that its reader has not taken yet, and the seconds of its current round."""

    drafter: Drafter
    context: Tokens
    sampler: Sampler
    limits: Limits
    controller: Controller
    logprobs: int | None
    ready: deque[Round | SpecgenError] = field(default_factory=deque)
    begun: bool = False
    paced: bool = False
    ended: bool = False
    seconds: float = 0.0


class Scheduler:
    """Runs answers over one `target`. One answer is the case of one.

    Answers join and leave between rounds. Their rows are one pass of the target, so that the weights are read once.
    Each answer's tokens are those that it has alone: a row's bits depend on its own context only. Rounds that several
    answers share draft nothing: a wider pass already uses the time in which the weights are read.
    """

    def __init__(self, target: LanguageModel) -> None:
        self._target = target
        self._members: list[_Member] = []
        self._most = 1

    def hold(self, count: int) -> int:
        """Let up to `count` answers share rounds; others wait. Returns how many can: 1 for a model with one cache."""
        self._most = self._target.hold(count)
        return self._most

    def rounds(
        self,
        drafter: Drafter,
        context: Tokens,
        sampler: Sampler,
        limits: Limits,
        controller: Controller,
        logprobs: int | None = None,
    ) -> Iterator[Round]:
        """Generate after `context` until `limits`. The caller may close the generator after any round.

        Speculative decoding (Leviathan et al. 2023, Chen et al. 2023) with the acceptance rule of verify.py: the tokens
        are those that `sampler` picks from the target's logits without a draft. `len(context)` must be below
        `limits.length`. With `logprobs` rounds have scores with that many likeliest tokens each. Whichever answer needs
        a round runs it for all. Raises NonFiniteLogits.
        """
        member = _Member(drafter, context, sampler, limits, controller, logprobs)
        self._members.append(member)
        try:
            while True:
                while not member.ready:
                    self._step()
                done = member.ready.popleft()
                if isinstance(done, SpecgenError):
                    raise done
                yield done
                if done.finish is not None:
                    return
        finally:
            self._members.remove(member)

    def _step(self) -> None:
        """One round of the answers whose turn it is."""
        began = time.perf_counter()
        running = [member for member in self._members if not member.ended][: self._most]
        alone = len(running) == 1
        reading: list[ForwardCall] = []
        active = running if alone else self._begun(running, reading)
        for member in active:
            if not member.begun:
                self._target.begin_answer()
        drafted = [(member, *_propose(member, alone=alone)) for member in active]
        ready = [(member, proposal, draft_s) for member, proposal, draft_s in drafted if proposal is not None]
        start = running[0].controller.clock()
        calls = [(member.context + proposal.tokens, len(proposal.tokens) + 1) for member, proposal, _ in ready]
        calls += reading
        logits = self._target.forward_many(calls) if calls else []
        for (member, proposal, draft_s), rows in zip(ready, logits, strict=False):
            _verify(member, proposal, rows, (draft_s, start), alone=alone)
        seconds = time.perf_counter() - began
        for member in running:
            member.seconds += seconds
            for index, done in enumerate(member.ready):
                if isinstance(done, Round) and done.round_s == 0.0:
                    member.ready[index] = replace(done, round_s=member.seconds)
                    member.seconds = 0.0

    def _begun(self, running: Sequence[_Member], reading: list[ForwardCall]) -> list[_Member]:
        """The answers whose prompts are read, or will be in this round. Adds pieces of other prompts to `reading`."""
        room = PIECE
        active: list[_Member] = []
        for member in running:
            unread = 0 if member.begun else len(member.context) - self._target.cached(member.context)
            if unread > room > 0:
                reading.append((member.context.prefix(len(member.context) - unread + room), 0))
            elif unread <= room:
                active.append(member)
            room -= min(room, unread)
        return active


def _propose(member: _Member, *, alone: bool) -> tuple[Proposal | None, float]:
    """A proposal and the seconds that it took; None if the drafter fails, which ends the answer."""
    controller = member.controller
    if not alone:
        member.paced = False
        return Proposal(), 0.0
    if not member.paced:
        controller.begin(member.context, is_read=member.begun)
        member.paced = True
    room = member.limits.length - len(member.context)
    plan = controller.plan(member.context, room, member.sampler, member.limits.end_ids)
    start = controller.clock()
    try:
        proposal = member.drafter.propose(member.context, plan)
    except SpecgenError as error:
        _fail(member, error)
        return None, 0.0
    return proposal, controller.clock() - start


def _verify(
    member: _Member, proposal: Proposal, logits: torch.Tensor, times: tuple[float, float], *, alone: bool
) -> None:
    """Accept tokens, and add the round. `times`: the seconds of drafting, and when the pass began."""
    member.begun = True
    try:
        verdict = verify(proposal, member.sampler.pick(logits, member.context, proposal.tokens))
    except SpecgenError as error:
        _fail(member, error)
        return
    draft_s, verify_s = times[0], member.controller.clock() - times[1]
    notice = member.controller.observe(verdict, draft_s, verify_s) if alone else None
    tokens, sources = verdict.tokens, verdict.sources
    limits, room = member.limits, member.limits.length - len(member.context)
    reason: Reason | None = None
    # The end token counts before the limit.
    end = next((i for i, token in enumerate(tokens) if token in limits.end_ids), None)
    if end is not None:
        tokens, sources, reason = tokens[: end + 1], sources[: end + 1], "end"
    elif len(tokens) == room:
        reason = limits.reason
    member.context = member.context.grow(tokens)
    member.ended = reason is not None
    member.ready.append(
        Round(
            context=member.context,
            tokens=tokens,
            sources=sources,
            drafted=len(proposal.tokens),
            accepted=min(verdict.accepted, len(tokens)),
            draft_s=draft_s,
            verify_s=verify_s,
            finish=reason,
            drafted_tokens=proposal.tokens,
            drafted_sources=proposal.sources,
            notice=notice,
            scores=() if member.logprobs is None else log_probabilities(logits, tokens, member.logprobs),
        )
    )


def _fail(member: _Member, error: SpecgenError) -> None:
    member.ready.append(error)
    member.ended = True


def decode(
    target: LanguageModel,
    drafter: Drafter,
    context: Tokens,
    sampler: Sampler,
    limits: Limits,
    controller: Controller,
    logprobs: int | None = None,
) -> Iterator[Round]:
    """The rounds of one answer of `target`: see Scheduler.rounds."""
    return Scheduler(target).rounds(drafter, context, sampler, limits, controller, logprobs)
