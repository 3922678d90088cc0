"""What a run gained, in a few words: the live line, and the summary after the text."""

from typing import Literal

from specgen.events import Finished, LoadedModel, Reason, Started, Stats

SummaryForm = Literal["full", "short", "none"]

_SEPARATOR = " · "
_STOPPED: dict[Reason, str] = {
    "length": "stopped at the token limit",
    "context": "stopped: the context is full",
    "interrupted": "interrupted",
}


def live_line(stats: Stats, drafter: str, columns: int) -> str:
    """The run so far in one line that is narrower than `columns`; what does not fit is left out."""
    parts = [_count(stats.generated_tokens, "token"), *_speed(stats), *_acceptance(stats, drafter)]
    return _fold(parts, columns - 1)[0][: columns - 1]


def summary(started: Started | None, finished: Finished, form: SummaryForm, columns: int | None = None) -> str:
    """The closing summary, each line with its newline; "" for the form none.

    Short is the speed and the acceptance; full adds the times, the models and the seed of a sampled run. Lines break
    between figures to fit `columns`; None is as wide as it takes.
    """
    if form == "none":
        return ""
    stats = finished.stats
    drafter = started.drafter if started else "none"
    tokens = _count(stats.generated_tokens, "token")
    acceptance = _acceptance(stats, drafter)
    stopped = [_STOPPED[finished.reason]] if finished.reason in _STOPPED else []
    if form == "short":
        groups = [[tokens, *_speed(stats), *acceptance, *stopped]]
    else:
        speed = [f"{tokens} in {_seconds(stats.elapsed_s)}", *_speed(stats)]
        speed += [f"first token {_seconds(stats.time_to_first_token_s)}"] if stats.generated_tokens else []
        run = [*speed, *acceptance, *stopped]
        fits = columns is None or len(_SEPARATOR.join(run)) <= columns
        groups = [run] if fits else [speed, [*acceptance, *stopped]]
        groups += [_models(started)] if started else []
    return "".join(f"{line}\n" for group in groups for line in _fold(group, columns))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"


def _speed(stats: Stats) -> list[str]:
    return [f"{stats.tokens_per_second:.1f} tok/s"] if stats.tokens_per_second else []


def _acceptance(stats: Stats, drafter: str) -> list[str]:
    if drafter == "none" or not stats.rounds:
        return []
    if not stats.drafted_tokens:
        return ["nothing drafted"]
    length = f"mean acceptance length {stats.mean_acceptance_length:.1f}"
    return [f"acceptance rate {stats.acceptance_rate:.0%}".replace("%", " %"), length]


def _models(started: Started) -> list[str]:
    parts = [f"target {_model(started.target)}"]
    if started.draft:
        parts.append(f"draft {_model(started.draft)}")
    elif started.drafter != "none":
        parts.append(f"drafter {started.drafter}")
    return parts if started.sampling.greedy else [*parts, f"seed {started.sampling.seed}"]


def _model(model: LoadedModel) -> str:
    return f"{model.id}@{model.revision[:7]}" if model.revision else model.id


def _fold(parts: list[str], columns: int | None) -> list[str]:
    """`parts` joined into as few lines as fit; a part that is too wide alone gets a line of its own."""
    lines: list[str] = []
    for part in parts:
        if lines and (columns is None or len(lines[-1]) + len(_SEPARATOR) + len(part) <= columns):
            lines[-1] += _SEPARATOR + part
        else:
            lines.append(part)
    return lines
