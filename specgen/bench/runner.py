"""Runs the contenders of a benchmark in turn, prompt by prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from specgen.bench.contenders import Contender
from specgen.bench.measure import Measurement
from specgen.bench.meters import EnergyMeter, PeakMemory, SpeedProbe
from specgen.bench.suites import SuitePrompt
from specgen.core.events import Progress
from specgen.core.progress import Reporting

_WARM_UP = 8  # tokens: enough to run every part of a contender once


@dataclass(frozen=True, slots=True)
class Run:
    """One contender's answer to one prompt. None marks a value that nobody measured.

    `pace_s` is the time of SpeedProbe at the start of the turn, in seconds.
    """

    contender: str
    prompt: SuitePrompt
    repetition: int
    measurement: Measurement
    peak_memory_bytes: int | None = None
    energy_j: float | None = None
    pace_s: float | None = None


def warm_up(contenders: Sequence[Contender], prompts: Mapping[SuitePrompt, Sequence[int]]) -> Reporting[None]:
    """Let each contender generate a few tokens after the longest prompt, unmeasured."""
    longest = max(prompts.values(), key=len)
    for contender in contenders:
        yield Progress(f"warming up {contender.name}")
        contender.run(longest, _WARM_UP)


@dataclass(frozen=True, slots=True)
class Meters:
    """Meters read around every answer; `probe` runs before each turn.

    `memory` must be None when a peer shares this process.
    """

    memory: PeakMemory | None = None
    energy: EnergyMeter = field(default_factory=lambda: EnergyMeter([]))
    probe: SpeedProbe | None = None


def interleave(
    contenders: Sequence[Contender],
    prompts: Mapping[SuitePrompt, Sequence[int]],
    repeat: int,
    new: int,
    meters: Meters | None = None,
    runs: list[Run] | None = None,
) -> Reporting[list[Run]]:
    """Run every contender on every prompt, `repeat` times, and append to `runs`.

    Contenders take turns on each prompt, so that a busy moment affects all of them. The first contender is plain
    decoding. A peer generates as many tokens as plain decoding did, so that both texts have the same length.
    """
    runs = [] if runs is None else runs
    meters = meters or Meters()
    for number, (prompt, ids) in enumerate(prompts.items(), start=1):
        for repetition in range(repeat):
            length = new
            pace = meters.probe.seconds() if meters.probe else None
            for contender in contenders:
                yield Progress(f"prompt {number} of {len(prompts)} ({prompt.category}): {contender.name}")
                measurement, peak, joules = _metered(meters, contender, ids, new if contender.own else length)
                runs.append(Run(contender.name, prompt, repetition, measurement, peak, joules, pace))
                if contender is contenders[0]:
                    length = len(measurement.ids)
    return runs


def _metered(
    meters: Meters, contender: Contender, ids: Sequence[int], new: int
) -> tuple[Measurement, int | None, float | None]:
    memory = meters.memory if contender.own else None
    if memory:
        memory.start()
    meters.energy.start()
    measurement = contender.run(ids, new)
    joules = meters.energy.stop()
    return measurement, memory.stop() if memory else None, joules
