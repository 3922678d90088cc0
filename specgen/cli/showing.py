"""Answers of the history, in words and as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.cells import cell_len, set_cell_size

from specgen.core.types import BUNDLED, Message, ModelRef
from specgen.history.store import Answer

_MODEL_WIDTH = 24
_LABEL_WIDTH = 10


def as_data(answer: Answer) -> dict[str, Any]:
    """Every field under its name, the time in UTC."""
    return asdict(answer) | {"time": answer.time.isoformat(timespec="milliseconds")}


def table(answers: Sequence[Answer], columns: int | None) -> list[str]:
    """One line an answer under a line of titles, none wider than `columns`; None is as wide as it takes."""
    rows = [("ID", "TIME", "KIND", "TARGET", "PROMPT")]
    for answer in answers:
        kind = f"{answer.kind} -t {answer.template}" if answer.template else answer.kind
        prompt = next((line for line in answer.prompt.splitlines() if line.strip()), "").strip()
        rows.append((str(answer.id), _time(answer), kind, _short(answer.settings["target"]["id"]), prompt))
    widths = [max(cell_len(row[column]) for row in rows) for column in range(4)]
    padded = [[set_cell_size(text, width) for text, width in zip(row, widths, strict=False)] + [row[4]] for row in rows]
    return [_cut("  ".join(row).rstrip(), columns) for row in padded]


def in_full(answer: Answer, messages: Sequence[Message]) -> str:
    """The answer with all that is known about it, statistics last."""
    settings, stats, sampling = answer.settings, answer.stats, answer.settings["sampling"]
    drafter = _model(settings["draft"]) if settings["draft"] else settings["drafter"]
    fields = {
        "answer": f"{answer.id}, {_time(answer)}, {answer.kind}, {answer.reason}",
        "template": answer.template,
        "target": _model(settings["target"]),
        "draft": drafter,
        "settings": ", ".join([settings["device"], settings["dtype"], f"quant {settings['quant']}", _length(settings)]),
        "sampling": "greedy" if not sampling["temperature"] else ", ".join(f"{k} {v}" for k, v in sampling.items()),
    }
    head = [f"{label:<{_LABEL_WIDTH}}{value}" for label, value in fields.items() if value is not None]
    said = [part for message in messages for part in ("", f"--- {message.role}", message.content)]
    return "\n".join([*head, *said, "", "--- assistant", answer.output, "", "--- statistics", *_figures(stats)])


def _figures(stats: Mapping[str, Any]) -> list[str]:
    speed_up = stats["speed_up"]
    shown = [
        f"{stats['generated_tokens']} tokens in {stats['elapsed_s']:.1f} s",
        f"{stats['tokens_per_second']:.1f} tok/s",
    ]
    if speed_up is not None:
        shown.append(f"{'~' if stats['speed_up_is_estimate'] else ''}{speed_up:.1f}x plain decoding")
    if stats["drafted_tokens"]:
        shown.append(f"acceptance rate {100 * stats['acceptance_rate']:.0f} % of {stats['drafted_tokens']}")
        shown.append(f"mean acceptance length {stats['mean_acceptance_length']:.1f}")
    return [" · ".join(shown)]


def _time(answer: Answer) -> str:
    return answer.time.astimezone().strftime("%Y-%m-%d %H:%M")


def _length(settings: Mapping[str, Any]) -> str:
    return f"draft length {'auto' if settings['num_draft_tokens'] is None else settings['num_draft_tokens']}"


def _model(model: Mapping[str, Any]) -> str:
    return str(ModelRef.at(str(model["id"]), model["revision"]))


def _short(id: str) -> str:  # noqa: A002
    name = id.removeprefix(BUNDLED).removesuffix("/target") if id.startswith(BUNDLED) else id.rpartition("/")[2]
    return _cut(name, _MODEL_WIDTH)


def _cut(text: str, width: int | None) -> str:
    return text if width is None or cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"
