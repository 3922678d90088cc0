"""Statistics in words: the live line, and the summary after the text."""

import textwrap
from collections.abc import Sequence
from typing import Literal

from specgen.core.events import Drafted, Finished, LoadedModel, Reason, Source, Started, Stats
from specgen.core.words import plural

SummaryForm = Literal["full", "short", "none"]

_SEPARATOR = " · "
_POSITIONS = 8  # later positions are too rare for a rate
_STOPPED: dict[Reason, str] = {
    "length": "stopped at the token limit",
    "context": "stopped: the context is full",
    "interrupted": "interrupted",
}


def live_line(stats: Stats, drafter: str, columns: int) -> str:
    """The statistics so far on one line narrower than `columns`. Omits what does not fit."""
    parts = [*_in_short(stats, drafter), *([drafter] if drafter != "none" else [])]
    return _fold(parts, columns - 1)[0][: columns - 1]


def summary(started: Started | None, finished: Finished, form: SummaryForm, columns: int | None = None) -> str:
    """The summary after an answer, each line with its newline; "" for the form none.

    short: speed and acceptance. full: also the distribution of tokens and time, the models, and the seed of a sampled
    run. Lines break between figures to fit `columns`, unless that is None.
    """
    if form == "none":
        return ""
    stats = finished.stats
    drafter = started.drafter if started else "none"
    stopped = [_STOPPED[finished.reason]] if finished.reason in _STOPPED else []
    if form == "short":
        groups = [[*_in_short(stats, drafter), *stopped]]
    else:
        speed = [f"{plural(stats.generated_tokens, 'token')} in {_seconds(stats.elapsed_s)}", *_speed(stats)]
        speed += [f"{figure} plain decoding" for figure in _speed_up(stats, drafter)]
        speed += [f"first token {_seconds(stats.time_to_first_token_s)}"] if stats.generated_tokens else []
        acceptance = _acceptance(stats, drafter, "mean acceptance length")
        groups = [speed, [*acceptance, *stopped], _positions(stats), _rounds(stats, drafter)]
        groups += [_models(started)] if started else []
    return "".join(f"{line}\n" for group in groups for line in _fold(group, columns))


def _in_short(stats: Stats, drafter: str) -> list[str]:
    """The main figures. `length` is the mean acceptance length."""
    tokens = plural(stats.generated_tokens, "token")
    return [tokens, *_speed(stats), *_speed_up(stats, drafter), *_acceptance(stats, drafter, "length")]


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"


def _speed(stats: Stats) -> list[str]:
    return [f"{stats.tokens_per_second:.1f} tok/s"] if stats.tokens_per_second else []


def _speed_up(stats: Stats, drafter: str) -> list[str]:
    """The speed-up over plain decoding; empty without drafting or without a measured plain round."""
    if drafter == "none" or stats.speed_up is None:
        return []
    return [f"{'~' if stats.speed_up_is_estimate else ''}{stats.speed_up:.1f}x"]


def _acceptance(stats: Stats, drafter: str, length: str) -> list[str]:
    """The acceptance figures. `length` is the label of the mean acceptance length."""
    if drafter == "none" or not stats.rounds:
        return []
    if not stats.drafted_tokens:
        return ["nothing drafted"]
    return [f"acceptance rate {_share(stats.acceptance_rate)}", f"{length} {stats.mean_acceptance_length:.1f}"]


def _positions(stats: Stats) -> list[str]:
    """Acceptance by source and by position in the round."""
    parts = [f"{source} {_share(each.accepted / each.drafted)} of {each.drafted}" for source, each in _drafted(stats)]
    if shares := stats.acceptance_by_position[:_POSITIONS]:
        parts.append(f"by position {' '.join(f'{100 * share:.0f}' for share in shares)} %")
    return parts


def _drafted(stats: Stats) -> list[tuple[Source, Drafted]]:
    return [(source, each) for source, each in stats.by_source.items() if each.drafted]


def _rounds(stats: Stats, drafter: str) -> list[str]:
    """Histogram of accepted lengths, rejected tokens, and shares of time."""
    if drafter == "none" or not stats.elapsed_s:
        return []
    parts = [f"accept lengths {' '.join(counts)}"] if (counts := _histogram(stats.accepted_lengths)) else []
    if stats.drafted_tokens:
        parts.append(f"{plural(stats.drafted_tokens - stats.accepted_tokens, 'token')} drafted in vain")
    spent = {"draft": stats.draft_s, "verify": stats.verify_s, "other": stats.other_s}
    shares = [f"{_share(seconds / stats.elapsed_s)} {name}" for name, seconds in spent.items()]
    return [*parts, f"time {', '.join(shares)}"]


def _histogram(counts: Sequence[int]) -> list[str]:
    """`length:rounds` for each length that occurred. Lengths above 4 are grouped by octaves."""
    octaves: dict[str, int] = {}
    for length, count in enumerate(counts):
        first = 1 << ((length - 1).bit_length() - 1) if length > 4 else 0
        name = f"{first + 1}-{2 * first}" if first else str(length)
        octaves[name] = octaves.get(name, 0) + count
    return [f"{name}:{count}" for name, count in octaves.items() if count]


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _models(started: Started) -> list[str]:
    parts = [f"target {_model(started.target)}"]
    if started.draft:
        parts.append(f"draft {_model(started.draft)}")
    elif started.drafter != "none":
        parts.append(f"drafter {started.drafter}")
    parts.append(started.dtype if started.quant == "none" else started.quant)
    return parts if started.sampling.greedy else [*parts, f"seed {started.sampling.seed}"]


def _model(model: LoadedModel) -> str:
    return f"{model.id}@{model.revision[:7]}" if model.revision else model.id


def _fold(parts: list[str], columns: int | None) -> list[str]:
    """`parts` joined into as few lines as possible. A part wider than a line breaks at spaces."""
    lines: list[str] = []
    for part in parts:
        if lines and (columns is None or len(lines[-1]) + len(_SEPARATOR) + len(part) <= columns):
            lines[-1] += _SEPARATOR + part
        elif columns is None or len(part) <= columns:
            lines.append(part)
        else:
            lines += textwrap.wrap(part, columns, break_long_words=False, break_on_hyphens=False)
    return lines
