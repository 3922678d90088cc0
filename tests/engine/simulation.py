"""Simulated runs: models with a given cost and acceptance on a clock that only they advance."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from specgen.core.tokens import Tokens
from specgen.engine.decode import Round
from specgen.engine.drafters.hybrid import HybridDrafter
from specgen.engine.drafters.interface import Drafter, DraftPlan, NoDrafter, Proposal
from specgen.engine.drafters.lookup import LookupDrafter
from specgen.engine.drafters.model import ModelDrafter
from specgen.engine.pacing.controller import AdaptiveController, Controller, FixedController
from specgen.nn.interface import ForwardCall
from tests.fakes import rounds, tokens_of

VOCAB = 64
UNLIMITED = 1 << 20
Cost = Callable[[int], float]


class Clock:
    """A clock that only tests advance."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Text:
    """A prompt, its answer, and the draft's guess and confidence for each token of the answer."""

    prompt: list[int]
    answer: list[int]
    guesses: list[int]
    confidences: list[float]


def text(chances: Sequence[float], *, prompt: int = 1, seed: int = 0, confident: bool | Sequence[float] = True) -> Text:
    """A text whose tokens are guessed with `chances`. The confidence is the chance, or 0.7 if not `confident`."""
    dice = random.Random(seed)
    answer = [dice.randrange(VOCAB // 2) for _ in chances]
    hits = [dice.random() < chance for chance in chances]
    guesses = [each if hit else each + VOCAB // 2 for each, hit in zip(answer, hits, strict=True)]
    says = [min(0.99, max(0.05, chance)) if confident is True else 0.7 for chance in chances]
    if not isinstance(confident, bool):
        says = list(confident)
    return Text([dice.randrange(VOCAB) for _ in range(prompt)], answer, guesses, says)


class Target:
    """Generates the answer, and takes `cost(n)` seconds to feed n tokens."""

    vocab_size = VOCAB

    def __init__(self, said: Text, clock: Clock, cost: Cost) -> None:
        self.fed = 0
        self._said, self._clock, self._cost = said, clock, cost
        self._cached = Tokens()

    def begin_answer(self) -> None:
        pass

    def forward_many(self, calls: Sequence[ForwardCall]) -> list[torch.Tensor]:
        return [self.forward(tokens, last) for tokens, last in calls]

    def hold(self, count: int) -> int:
        return count

    def cached(self, tokens: Tokens) -> int:
        return tokens.common_prefix(self._cached)

    def forward(self, tokens: Tokens, last: int) -> torch.Tensor:
        fed = len(tokens) - min(tokens.common_prefix(self._cached), len(tokens) - last)
        self.fed += fed
        self._cached = tokens
        self._clock.now += self._cost(fed)
        return self._rows(len(tokens) - len(self._said.prompt), last)

    def _rows(self, said: int, last: int) -> torch.Tensor:
        after = range(said - last + 1, said + 1)
        ids = [self._said.answer[at] if at < len(self._said.answer) else 0 for at in after]
        return torch.nn.functional.one_hot(torch.tensor(ids), VOCAB).float()


class Draft(Target):
    """Generates the guesses from position `place` of the answer on, whatever context it sees."""

    place = 0

    def _rows(self, said: int, last: int) -> torch.Tensor:
        at = min(self.place, len(self._said.guesses) - 1)
        self.place += 1
        chance = self._said.confidences[at]
        row = torch.full((1, VOCAB), math.log((1 - chance) / (VOCAB - 1)))
        row[0, self._said.guesses[at]] = math.log(chance)
        return row


class Placed:
    """A drafter that tells its draft the position in the answer at which each round starts."""

    def __init__(self, drafter: Drafter, draft: Draft, prompt_length: int) -> None:
        self._drafter, self._draft, self._prompt_length = drafter, draft, prompt_length

    def propose(self, context: Tokens, plan: DraftPlan) -> Proposal:
        self._draft.place = len(context) - self._prompt_length
        return self._drafter.propose(context, plan)


@dataclass
class Machine:
    """The costs of target and draft: number of tokens fed -> seconds."""

    target: Cost
    draft: Cost


def flat(one: float, per_token: float) -> Cost:
    """Bound by reading the weights for few tokens, by computing for many."""
    return lambda fed: max(one, per_token * fed)


def sloped(one: float, more: float) -> Cost:
    return lambda fed: one + more * (fed - 1)


@dataclass
class Run:
    rounds: list[Round]
    seconds: float
    draft_fed: int

    @property
    def notices(self) -> list[str]:
        return [each.notice for each in self.rounds if each.notice]


def simulate(
    said: Text,
    machine: Machine,
    k: int | None,
    *,
    lookup: bool = False,
    controller: Controller | None = None,
    drafter: Drafter | None = None,
) -> Run:
    """A whole run with draft length `k`; None is adaptive, 0 is plain. `controller` may have served other runs.

    `drafter` replaces the draft model.
    """
    clock = controller.clock if controller else Clock()
    assert isinstance(clock, Clock)
    start = clock.now
    target, draft = Target(said, clock, machine.target), Draft(said, clock, machine.draft)
    by_model = ModelDrafter(draft, VOCAB, UNLIMITED)
    drafter = drafter or Placed(
        HybridDrafter(LookupDrafter(), by_model) if lookup else by_model, draft, len(said.prompt)
    )
    deciding = controller or (AdaptiveController(clock) if k is None else FixedController(k, clock))
    done = rounds(
        target, said.prompt, drafter=NoDrafter() if k == 0 else drafter, new=len(said.answer), controller=deciding
    )
    assert tokens_of(done) == said.answer
    return Run(done, clock.now - start, draft.fed)


def fixed_seconds(said: Text, machine: Machine, k: int) -> float:
    """The seconds of `simulate(said, machine, k)`, from the costs alone, in a thousandth of the time."""
    seconds, at, target_new, draft_new = 0.0, 0, len(said.prompt), len(said.prompt)
    while at < len(said.answer):
        length = min(k, len(said.answer) - at - 1)
        for new in [draft_new, *[1] * (length - 1)][:length]:
            seconds += machine.draft(new)
        seconds += machine.target(target_new + length)
        accepted = 0
        while accepted < length and said.guesses[at + accepted] == said.answer[at + accepted]:
            accepted += 1
        at += accepted + 1
        # After a wholly accepted proposal the draft has read neither its last token nor the bonus token.
        target_new, draft_new = 1, 2 if accepted == length else 1
    return seconds
