"""The order of a benchmark: prompt by prompt, each contender in turn, so that a busy moment hits all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from specgen.bench.contenders import Contender
from specgen.bench.measure import Measurement
from specgen.bench.meters import Energy, Memory, Pace
from specgen.bench.suites import SuitePrompt
from specgen.core.events import Progress
from specgen.core.progress import Reporting

# Enough to have every part of a contender run once.
_WARM_UP = 8


@dataclass(frozen=True, slots=True)
class Run:
    """One contender's answer to one prompt, and what it took beside time; None where nobody knows.

    `pace_s` is what Pace measured as the turn began.
    """

    contender: str
    prompt: SuitePrompt
    repetition: int
    measurement: Measurement
    peak_memory_bytes: int | None = None
    energy_j: float | None = None
    pace_s: float | None = None


def warm_up(contenders: Sequence[Contender], prompts: Mapping[SuitePrompt, Sequence[int]]) -> Reporting[None]:
    """A few tokens of each contender after the longest prompt; nothing of it is measured."""
    longest = max(prompts.values(), key=len)
    for contender in contenders:
        yield Progress(f"warming up {contender.name}")
        contender.run(longest, _WARM_UP)


@dataclass(frozen=True, slots=True)
class Meters:
    """What is read around every answer, and `pace` before each turn.

    Without `memory` nothing can be said of it: a peer is in this process too.
    """

    memory: Memory | None = None
    energy: Energy = field(default_factory=lambda: Energy([]))
    pace: Pace | None = None


def interleave(
    contenders: Sequence[Contender],
    prompts: Mapping[SuitePrompt, Sequence[int]],
    repeat: int,
    new: int,
    meters: Meters | None = None,
    runs: list[Run] | None = None,
) -> Reporting[list[Run]]:
    """Every contender on every prompt, `repeat` times; `prompts` has the ids of each. Runs are added to `runs`.

    The first contender is plain decoding. Ours may stop at an end token before `new` tokens; a peer makes as many
    tokens as plain decoding did, so that both times are those of a text of one length.
    """
    runs = [] if runs is None else runs
    meters = meters or Meters()
    for number, (prompt, ids) in enumerate(prompts.items(), start=1):
        for repetition in range(repeat):
            length = new
            pace = meters.pace.seconds() if meters.pace else None
            for contender in contenders:
                yield Progress(f"prompt {number} of {len(prompts)} ({prompt.category}): {contender.name}")
                measurement, peak, joules = _metered(meters, contender, ids, new if contender.ours else length)
                runs.append(Run(contender.name, prompt, repetition, measurement, peak, joules, pace))
                if contender is contenders[0]:
                    length = len(measurement.ids)
    return runs


def _metered(
    meters: Meters, contender: Contender, ids: Sequence[int], new: int
) -> tuple[Measurement, int | None, float | None]:
    memory = meters.memory if contender.ours else None
    if memory:
        memory.start()
    meters.energy.start()
    measurement = contender.run(ids, new)
    joules = meters.energy.stop()
    return measurement, memory.stop() if memory else None, joules
