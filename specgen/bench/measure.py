"""Measures one answer: its statistics and the time spent in forward passes."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from specgen.core.events import Finished, Stats, Step
from specgen.core.tokens import Tokens
from specgen.core.types import SamplingChoice
from specgen.nn.interface import ForwardCall, Runner
from specgen.nn.wrapper import RunnerWrapper
from specgen.session.session import Session

K = TypeVar("K")


class TimedModel(RunnerWrapper):
    """A model that counts its forward passes and the seconds they take."""

    def __init__(self, model: Runner) -> None:
        super().__init__(model)
        self.seconds = 0.0
        self.passes = 0

    def forward_many(self, calls: Sequence[ForwardCall]) -> list[torch.Tensor]:
        start = time.perf_counter()
        logits = super().forward_many(calls)
        for rows in logits[-1:]:
            synchronize(rows)
        self.seconds += time.perf_counter() - start
        self.passes += 1
        return logits


def synchronize(rows: torch.Tensor) -> None:
    """Wait until `rows` are computed: an accelerator returns them earlier."""
    rows[-1:, -1:].sum().item()


@dataclass(frozen=True, slots=True)
class DecodingTime:
    """Seconds after the first round, which reads the prompt.

    `draft_s` and `verify_s` are defined as in Step. `forward_s` is the part of both spent in forward passes.
    """

    elapsed_s: float
    draft_s: float
    verify_s: float
    forward_s: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """The token ids and the statistics of one answer.

    `forwards` counts the forward passes of the target and of the draft. It and `decoding` are None for a peer.
    """

    ids: tuple[int, ...]
    stats: Stats
    decoding: DecodingTime | None = None
    forwards: tuple[int, ...] | None = None


def measure(
    session: Session, prompt: Sequence[int], sampling: SamplingChoice, new: int, models: Sequence[TimedModel]
) -> Measurement:
    """Generate at most `new` tokens after `prompt`. `models` are the models of `session`. Raises SpecgenError."""
    ids: list[int] = []
    stats = Stats()
    first: Step | None = None
    forward_s = first_s = 0.0
    for event in session.run(Tokens(prompt), sampling, new):
        if isinstance(event, Step):
            ids += event.tokens
            forward_s = sum(model.seconds for model in models)
            if first is None:
                first, first_s = event, forward_s
        elif isinstance(event, Finished):
            stats = event.stats
    assert first is not None, "every answer has a first round"  # noqa: S101
    decoding = DecodingTime(
        elapsed_s=stats.elapsed_s - stats.time_to_first_token_s,
        draft_s=stats.draft_s - first.draft_s,
        verify_s=stats.verify_s - first.verify_s,
        forward_s=forward_s - first_s,
    )
    return Measurement(tuple(ids), stats, decoding, tuple(model.passes for model in models))


def medians(calls: Mapping[K, Callable[[], float]], repeat: int) -> dict[K, float]:
    """Median of the seconds that each of `calls` returns. Calls alternate; the first call of each is discarded."""
    seconds: dict[K, list[float]] = {name: [] for name in calls}
    for repetition in range(repeat + 1):
        for name, call in calls.items():
            taken = call()
            if repetition:
                seconds[name].append(taken)
    return {name: statistics.median(taken) for name, taken in seconds.items()}
