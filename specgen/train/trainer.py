"""Trains a head: the loss, the optimizer, acceptance on held-out answers, and the best state so far."""

import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from specgen.nn.heads.eagle import EagleHead
from specgen.nn.kernels.linear import packs
from specgen.train.answers import TrainingAnswer
from specgen.train.network import TrainableHead, chain
from specgen.train.teacher import Lesson, Teacher

STEPS = 3
"""Chained steps of the training-time test, and the draft length whose acceptance is reported."""
# Answers of one step of the optimizer.
_BATCH = 4
_RATE = 1e-3
_WARM_UP = 20
# A later step of a chain matters less, because it is reached only if the earlier ones are right.
_DECAY = 0.8
_LONGEST = 512  # tokens of an answer that are read
# Held-out answers whose acceptance is measured during training, and seconds of training between two measurements.
_WATCHED = 12
_WATCH_S = 90.0


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The share of held-out positions at which the first 1, 2 and 3 tokens of a greedy chain are the target's."""

    shares: tuple[float, ...] = (0.0,) * STEPS
    positions: int = 0

    @property
    def length(self) -> float:
        """The mean acceptance length with 3 drafted tokens, in tokens: the accepted ones and one of the target."""
        return 1 + sum(self.shares)


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """The state of the training: mean loss since the last report, tokens read, seconds, held-out acceptance."""

    step: int
    tokens: int
    seconds: float
    loss: float
    acceptance: Acceptance
    is_best: bool


class Trainer:
    """Trains `head` on answers that `teacher` reads. `best` is the state with the highest held-out acceptance.

    `tokens` were read in `seconds` of training, over all runs.
    """

    def __init__(self, head: TrainableHead, teacher: Teacher, device: torch.device) -> None:
        self._head = head
        self._teacher = teacher
        self._optimizer = torch.optim.AdamW(head.parameters.values(), lr=_RATE, betas=(0.9, 0.95), weight_decay=0.0)
        self._device = device
        self._step = 0
        self.tokens = 0
        self.seconds = 0.0
        self.best = head.state()
        self.acceptance = Acceptance()

    def train(
        self, answers: Sequence[TrainingAnswer], held: Sequence[TrainingAnswer], seconds: float
    ) -> Iterator[TrainingStep]:
        """Train for `seconds`, and report now and then. The learning rate falls to its end with the time."""
        dice = random.Random(self._step)  # noqa: S311  no secret
        order: list[TrainingAnswer] = []
        begin, losses, watched_at = time.monotonic(), [], 0.0
        while (spent := time.monotonic() - begin) < seconds:
            for group in self._optimizer.param_groups:
                group["lr"] = _rate(self._step, spent / seconds)
            for _ in range(_BATCH):
                if not order:
                    order = dice.sample(list(answers), len(answers))
                lesson = self._teacher.read(order.pop(), _LONGEST)
                self.tokens += len(lesson.picks)
                loss = self.loss(lesson)
                (loss / _BATCH).backward()  # type: ignore[no-untyped-call]
                losses.append(float(loss.detach()))
            torch.nn.utils.clip_grad_norm_(self._head.parameters.values(), 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad()
            self._step += 1
            if time.monotonic() - begin - watched_at >= min(_WATCH_S, seconds / 8):
                yield self._watch(held, losses, time.monotonic() - begin)
                losses, watched_at = [], time.monotonic() - begin
        self.seconds += seconds
        yield self._watch(held, losses, 0.0)

    def _watch(self, held: Sequence[TrainingAnswer], losses: Sequence[float], seconds: float) -> TrainingStep:
        acceptance = self.measure(held[:_WATCHED])
        best = acceptance.length > self.acceptance.length
        if best:
            self.best, self.acceptance = self._head.state(), acceptance
        loss = sum(losses) / max(1, len(losses))
        return TrainingStep(self._step, self.tokens, self.seconds + seconds, loss, acceptance, best)

    def loss(self, lesson: Lesson) -> torch.Tensor:
        """The divergence of the head's distributions from the target's, summed over the steps of the chain.

        Both are over the head's tokens, the target's likeliest ones alone. A row counts as much as the target expects
        the head's tokens.
        """
        with self._precision():
            head = self._head.head()
            outputs = self._chain(head, lesson)
            total = torch.zeros((), device=self._device)
            for depth, output in enumerate(outputs):
                rows = slice(max(depth, lesson.first // 2), None)
                guess = head.scores(output[rows]).log_softmax(-1)
                wanted, mass = lesson.logs[rows], lesson.mass[rows]
                each = (wanted.exp() * (wanted - guess.gather(-1, lesson.likeliest[rows]))).sum(-1)
                total = total + _DECAY**depth * (mass * each).sum() / mass.sum().clamp(min=1.0)
        return total

    @torch.no_grad()
    def measure(self, held: Sequence[TrainingAnswer]) -> Acceptance:
        """The acceptance of greedy chains on held-out answers, against the target's likeliest tokens."""
        hits, positions = torch.zeros(STEPS), 0
        head, ids = self._head.head(), self._head.ids.to(self._device)
        for answer in held:
            lesson = self._teacher.read(answer, _LONGEST)
            rows = len(lesson.picks)
            if lesson.first > rows - STEPS:  # too short for a chain
                continue
            starts = torch.arange(lesson.first, rows - STEPS + 1, device=self._device)
            with self._precision():
                outputs = self._chain(head, lesson)
                guesses = [ids[head.scores(output).argmax(-1)] for output in outputs]
            right = torch.stack(
                [guesses[depth][starts + depth] == lesson.picks[starts + depth] for depth in range(STEPS)]
            )
            hits += right.int().cumprod(0).sum(1).cpu()
            positions += len(starts)
        return Acceptance(tuple((hits / max(1, positions)).tolist()), positions)

    def _chain(self, head: EagleHead, lesson: Lesson) -> list[torch.Tensor]:
        return chain(head, head.read([lesson.states]).float(), self._teacher.embed(lesson.following), STEPS)

    def save(self, path: Path) -> None:
        """Write what a later run needs to go on."""
        partial = path.with_suffix(".part")
        torch.save(
            {
                "parameters": self._head.state(),
                "best": self.best,
                "optimizer": self._optimizer.state_dict(),
                "ids": self._head.ids,
                "numbers": [self._step, self.tokens, self.seconds, *self.acceptance.shares],
                "positions": self.acceptance.positions,
            },
            partial,
        )
        partial.replace(path)

    def resume(self, saved: dict[str, Any]) -> None:
        """Go on from what `save` wrote."""
        self._head.restore(saved["parameters"])
        self.best = saved["best"]
        self._optimizer.load_state_dict(saved["optimizer"])
        step, tokens, seconds, *shares = saved["numbers"]
        self._step, self.tokens, self.seconds = int(step), int(tokens), float(seconds)
        self.acceptance = Acceptance(tuple(shares), int(saved["positions"]))

    def _precision(self) -> Any:
        """Matrix products in bfloat16 where the processor is fast at them."""
        if self._device.type == "cpu" and not packs(torch.bfloat16):
            return nullcontext()
        return torch.autocast(self._device.type, torch.bfloat16)


def _rate(step: int, share: float) -> float:
    """The learning rate: a warm-up, then half a cosine over the share of the time."""
    return _RATE * min(1.0, (step + 1) / _WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, share)) + 0.02)
