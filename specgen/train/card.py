"""The model card of a trained head: where it comes from, what it does, and what it may have learned by heart."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from specgen.core.files import replace_file
from specgen.session.own_heads import RECORD
from specgen.train.comparison import Speed
from specgen.train.trainer import Acceptance


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """The facts of a training. `speed_up` is the median on held-out prompts, None where it was not measured."""

    target: str
    revision: str | None
    licence: str | None
    sources: tuple[str, ...]
    prompts: int
    answers: int
    answer_tokens: int
    read_tokens: int
    minutes: float
    date: str
    quant: str
    vocabulary: int
    states: tuple[int, ...]
    acceptance: tuple[float, ...]
    length: float
    speed_up: float | None
    faster: bool | None


def write_card(
    folder: Path, record: TrainingRecord, acceptance: Acceptance, speeds: Sequence[Speed], work: Path
) -> None:
    """Write README.md, and RECORD with the same facts for programs. `work` is the folder with the answers."""
    licence = record.licence or "unknown"
    shares = " | ".join(f"{share:.2f}" for share in acceptance.shares)
    rows = [f"| {each.draft} | {each.median:.2f} | {each.least:.2f} | {each.tokens_per_round:.2f} |" for each in speeds]
    table = (
        ["", "| draft | speed-up, median | least | tokens a round |", "| --- | --- | --- | --- |", *rows]
        if rows
        else []
    )
    lines = [
        "---",
        f"license: {licence}",
        f"base_model: {record.target}",
        "tags: [eagle3, speculative-decoding]",
        "---",
        "",
        f"# A head for {record.target}",
        "",
        f"An EAGLE-3 head, trained by `specgen train` on {record.date}. It drafts for {record.target}"
        + (f" at revision {record.revision}." if record.revision else "."),
        f"Its licence is that of the target: {licence}.",
        "",
        f"- Prompts: {record.prompts}, from {', '.join(record.sources)}. Held-out prompts are not among them.",
        f"- Answers: {record.answers} with {record.answer_tokens:,} tokens, all of them the target's own.",
        f"- Training: {record.minutes:.0f} minutes, {record.read_tokens:,} tokens read; target in {record.quant}.",
        f"- The head reads the states {', '.join(map(str, record.states))} and proposes {record.vocabulary} tokens.",
        "",
        "Accepted of a greedy chain on held-out answers:",
        "",
        "| first | first two | first three | mean acceptance length |",
        "| --- | --- | --- | --- |",
        f"| {shares} | {record.length:.2f} |",
        *table,
        "",
        "## Privacy",
        "",
        "The head has seen the prompts and the answers. It may propose passages of them that it learned by heart. A",
        "proposal never changes a text, but someone who has the head can make it propose. Treat it like the texts.",
        f"The answers lie in {work}. Delete that folder and this one to delete both.",
        "",
    ]
    replace_file(folder / "README.md", "\n".join(lines))
    replace_file(folder / RECORD, json.dumps(asdict(record), indent=2) + "\n")
