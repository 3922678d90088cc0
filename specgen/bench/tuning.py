"""The fastest settings of a pair on this machine: one axis after the other, then the winner against the defaults.

Each axis is a race of its values beside the defaults, prompt by prompt. What wins races wins them by luck too, so that
races only choose: whether the choice is better is measured anew, and that alone counts.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch

from specgen import __version__
from specgen.bench.bootstrap import Interval
from specgen.bench.contenders import HYBRID, LOOKUP, MODEL, Ours, Variant
from specgen.bench.fitting import fit
from specgen.bench.measure import Measurement
from specgen.bench.report import compare
from specgen.bench.runner import Run, interleave, warm_up
from specgen.bench.settings import QUICK
from specgen.bench.suites import SuitePrompt, in_turn, read_suite
from specgen.core.errors import SpecgenError, UsageError
from specgen.core.events import Notice, Progress
from specgen.core.progress import Reporting, follow
from specgen.core.types import TUNABLE, Dtype, EngineOptions, Quant, SamplingChoice, SamplingParams
from specgen.session.loading import Pair
from specgen.session.session import Session, memory_errors
from specgen.tuned import Tuned, in_options, machine, weights

Changes = Mapping[str, Any]
"""Fields of EngineOptions that differ from the defaults."""

_LENGTHS = (2, 4, 8)
# The last race, of what won the others, is no axis.
_LAST = "last"
# Of the time, how much is gone when an axis is done.
_SHARES = {"num_draft_tokens": 0.35, "lookup": 0.45, "threads": 0.55, "quant": 0.65, _LAST: 1.0}
_WORDS = {
    "num_draft_tokens": "draft lengths",
    "lookup": "lookup",
    "threads": "threads",
    "quant": "quantisation",
    _LAST: "the best beside the defaults",
}
# Times that every prompt is answered at most: a small pair needs no two minutes.
_PASSES = 2
_LAST_PASSES = 4
# From so many prompts on, a setting that is slower than the fastest by this much leaves its race.
_TRIED = 3
_BEHIND = 0.8
# A winner of a race is that much faster, else the simpler setting stays.
_CHOSEN = 1.02
# So much is worth a setting that does not adapt itself; less is noise on some machines.
_WORTH = 1.03
# The first token may come that much later, and the tenth of the prompts that gains least lose that much: noise.
_LATER = 0.95
_LOSS = 0.9
# Of fewer prompts nothing is said.
FEWEST = 6


@dataclass(frozen=True, slots=True)
class TuneSettings:
    """What to tune. Of `engine` what is settled, or other than its default, stays as it is.

    `minutes` bounds the measuring, not the loading. Another quantisation than the default is measured, but taken only
    with `allow_quant`: the target then computes other numbers, and so may write another text.
    """

    target: str
    draft: str = "auto"
    engine: EngineOptions = field(default_factory=EngineOptions)
    suite: str = QUICK
    minutes: float = 2.0
    max_new_tokens: int = 32
    allow_quant: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """How settings did beside the defaults: medians over `prompts` prompts, of speed and of the time to the first
    token; `same_text` is whether every text was that of the defaults."""

    options: str
    speed_up: float | None
    interval: Interval | None
    prompts: int
    promptness: float | None
    worst_decile: float | None
    same_text: bool

    @property
    def is_better(self) -> bool:
        """Beyond noise, on all prompts but for noise, with no later first token."""
        return (
            self.prompts >= FEWEST
            and None not in (self.speed_up, self.interval, self.promptness, self.worst_decile)
            and (self.speed_up or 0.0) >= _WORTH
            and (self.interval or (0.0,))[0] > 1.0
            and (self.promptness or 0.0) >= _LATER
            and (self.worst_decile or 0.0) >= _LOSS
        )


@dataclass(frozen=True, slots=True)
class Tuning:
    """What came of it: `races` by axis, the `last` against the defaults, None where nothing won a race; what is worth
    keeping, None where too little was measured to say anything."""

    races: Mapping[str, Sequence[Result]]
    last: Result | None
    tuned: Tuned | None
    other_quant: Result | None = None


def tune(settings: TuneSettings) -> Reporting[Tuning]:
    """Search. The threads of torch are as before when it ends. Raises SpecgenError."""
    prompts = in_turn(read_suite(settings.suite))
    session = Session(settings.target, settings.draft, dataclasses.replace(settings.engine, settled=TUNABLE))
    for event in session.open():
        if isinstance(event, Progress | Notice):
            yield event
    pair = session.pair
    if pair.drafter_name == "none":
        raise UsageError("nothing is drafted with this pair, so there is nothing to tune", hint="name a draft with -d")
    ids = yield from fit(pair, prompts, settings.max_new_tokens)
    threads = torch.get_num_threads()
    try:
        with memory_errors():
            return (yield from _Search(settings, pair, ids).run())
    finally:
        torch.set_num_threads(threads)


class Setting(Ours):
    """The pair with some changes, which learns from answer to answer as a chat or a server does."""

    def __init__(self, pair: Pair, engine: EngineOptions, changes: Changes, threads: int) -> None:
        options = dataclasses.replace(engine, **changes)
        kind = LOOKUP if pair.draft is None else HYBRID if options.lookup else MODEL
        sampling = SamplingChoice(**dataclasses.asdict(SamplingParams()))
        name = in_options(changes)
        super().__init__(name, pair, Variant(kind, options, sampling), in_options({}), learns=True)
        self.changes = changes
        self._threads = options.threads or threads

    def run(self, prompt: Sequence[int], new: int) -> Measurement:
        torch.set_num_threads(self._threads)
        return super().run(prompt, new)


class _Search:
    """The races, under one clock. What took loading is not counted."""

    def __init__(self, settings: TuneSettings, pair: Pair, ids: Mapping[SuitePrompt, Sequence[int]]) -> None:
        self._settings = settings
        self._pair = pair
        self._ids = ids
        self._threads = torch.get_num_threads()
        self._begin = time.monotonic()

    def run(self) -> Reporting[Tuning]:
        races: dict[str, Sequence[Result]] = {}
        best: Changes = {}
        for axis, values in self._axes().items():
            rivals = [self._setting(changes) for changes in [best] * bool(best) + [{**best, axis: v} for v in values]]
            races[axis] = yield from self._race(rivals, axis)
            best = _winner(rivals, races[axis], best)
        quant, pair = yield from self._other_quant()
        other: Result | None = None
        if pair is not None:
            setting = self._setting({**best, "quant": quant}, pair)
            (other,) = races["quant"] = yield from self._race([setting], "quant")
            if self._settings.allow_quant and (other.speed_up or 0.0) >= _CHOSEN:
                best = setting.changes
        measured = all(max(result.prompts for result in race) >= _TRIED for race in races.values())
        if not best:
            return Tuning(races, None, self._tuned({}, None) if measured else None, other)
        setting = self._setting(best, pair if "quant" in best else None)
        (last,) = yield from self._race([setting], _LAST)
        if last.prompts < FEWEST:
            return Tuning(races, last, None, other)
        better = last.is_better and (last.same_text or "quant" in best)
        return Tuning(races, last, self._tuned(best, last) if better else self._tuned({}, None), other)

    def _axes(self) -> dict[str, list[Any]]:
        """The values to try, of what was left open; but for quantisation, which takes loading the pair again."""
        engine, default = self._settings.engine, EngineOptions()
        half = [count for count in (self._threads // 2, self._threads // 4) if count]
        axes: dict[str, list[Any]] = {"num_draft_tokens": [*_LENGTHS], "lookup": [], "threads": half}
        if self._pair.draft is not None:
            axes["lookup"] = [False]
        if self._pair.placement.device.type != "cpu":
            axes["threads"] = []
        return {
            name: values
            for name, values in axes.items()
            if values and name not in engine.settled and getattr(engine, name) == getattr(default, name)
        }

    def _setting(self, changes: Changes, pair: Pair | None = None) -> Setting:
        return Setting(pair or self._pair, self._settings.engine, changes, self._threads)

    def _race(self, rivals: Sequence[Setting], axis: str) -> Reporting[list[Result]]:
        """Answers of the defaults and of `rivals`, until the axis's share of the time is gone.

        Who is far behind leaves early.
        """
        defaults, racing, runs = self._setting({}), list(rivals), list[Run]()
        ends = self._ends(_SHARES[axis])
        shortest = dict([min(self._ids.items(), key=lambda each: len(each[1]))])
        if time.monotonic() < ends:
            yield from warm_up([defaults, *racing], shortest)
        for number in range(_LAST_PASSES if axis == _LAST else _PASSES):
            for done, (prompt, ids) in enumerate(self._ids.items(), start=1):
                if time.monotonic() >= ends:
                    return _results(defaults, rivals, runs)
                left = self._ends(1.0) - time.monotonic()
                yield Progress(f"{_WORDS[axis]}: prompt {done} of {len(self._ids)}, {left:.0f} s left at most")
                answers = interleave([defaults, *racing], {prompt: ids}, 1, self._settings.max_new_tokens)
                runs += [dataclasses.replace(run, repetition=number) for run in follow(answers, lambda _: None)]
                if number or done >= _TRIED:
                    racing = _in_reach(racing, _results(defaults, racing, runs))
        return _results(defaults, rivals, runs)

    def _ends(self, share: float) -> float:
        """When so much of the time is gone, by time.monotonic."""
        return self._begin + 60 * self._settings.minutes * share

    def _other_quant(self) -> Reporting[tuple[Quant, Pair | None]]:
        """The pair in int8 where the default is not, and the other way round; None where there is one way only."""
        engine, int8 = self._settings.engine, self._pair.placement.int8
        quant = Quant.NONE if int8 else Quant.INT8
        asked = "quant" in engine.settled or engine.quant is not Quant.AUTO or engine.dtype is not Dtype.AUTO
        if asked or self._pair.placement.device.type != "cpu" or time.monotonic() >= self._ends(_SHARES["quant"]):
            return quant, None
        start = time.monotonic()
        options = dataclasses.replace(engine, quant=quant, settled=TUNABLE)
        session = Session(self._settings.target, self._settings.draft, options)
        try:
            for event in session.open():
                if isinstance(event, Progress):
                    yield event
        except SpecgenError as error:
            yield Notice(f"--quant {quant} was not measured: {error.message}")
            return quant, None
        self._begin += time.monotonic() - start
        return quant, session.pair

    def _tuned(self, changes: Changes, last: Result | None) -> Tuned:
        pair, default = self._pair, EngineOptions()
        return Tuned(
            target=weights(pair.checkpoint),
            draft=weights(pair.draft_checkpoint) if pair.draft_checkpoint else None,
            machine=machine(pair.placement.device),
            **{name: changes.get(name, getattr(default, name)) for name in TUNABLE},
            speed_up=last.speed_up if last else None,
            interval=last.interval if last else None,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            specgen=__version__,
        )


def _results(defaults: Setting, rivals: Sequence[Setting], runs: Sequence[Run]) -> list[Result]:
    table = compare([defaults, *rivals], runs)
    first = table[defaults.name]["time_to_first_token_s"]
    made = []
    for rival in rivals:
        figures, own = table[rival.name], table[rival.name]["time_to_first_token_s"]
        made.append(
            Result(
                options=rival.name,
                speed_up=figures["speed_up"],
                interval=figures["intervals"]["speed_up"],
                prompts=len({run.prompt.id for run in runs if run.contender == rival.name}),
                promptness=first / own if first and own else None,
                worst_decile=figures["worst_decile"],
                same_text=figures["same_text"] == figures["texts"],
            )
        )
    return made


def _in_reach(racing: Sequence[Setting], results: Sequence[Result]) -> list[Setting]:
    """Those that may still win."""
    fastest = max((result.speed_up or 0.0 for result in results), default=0.0)
    return [each for each, result in zip(racing, results, strict=True) if (result.speed_up or 0.0) >= _BEHIND * fastest]


def _winner(rivals: Sequence[Setting], results: Sequence[Result], best: Changes) -> Changes:
    """The changes that were fastest; `best` as long as nothing is faster than it by more than a little."""
    speeds = {result.options: result.speed_up or 0.0 for result in results if result.same_text}
    to_beat = speeds.get(in_options(best), 1.0)
    fastest = max(rivals, key=lambda each: speeds.get(each.name, 0.0))
    return fastest.changes if speeds.get(fastest.name, 0.0) >= to_beat * _CHOSEN else best
