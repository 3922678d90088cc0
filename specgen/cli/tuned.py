"""What was tuned, shown and dropped."""

import dataclasses
from typing import Any

import typer

from specgen.checkpoint.checkpoint import Checkpoint, find, follow
from specgen.cli.ui import print_json
from specgen.config.pairs import resolve, resolve_draft
from specgen.core.errors import SpecgenError
from specgen.core.types import AUTO, LOOKUP, Device, ModelRef, Quant
from specgen.render.terminal import sanitize
from specgen.tuned import Tuned, Weights, all_tuned, machine, name_of, weights


def as_data(tuned: Tuned, target: Checkpoint) -> dict[str, Any]:
    """All of it, and why it does not count here, None where it does."""
    return dataclasses.asdict(tuned) | {"unused": _why_unused(tuned, target)}


def in_lines(tuned: Tuned, target: Checkpoint) -> list[str]:
    """The same for people."""
    draft = tuned.draft.id if tuned.draft else LOOKUP
    lines = [f"{tuned.in_words()}, with {draft}, {tuned.time[:10]}"]
    if tuned.quant is not Quant.AUTO:
        lines.append("its quantisation changes the numbers that the target computes, and so may change the text")
    if why := _why_unused(tuned, target):
        lines.append(f"not in use: {why}")
    return lines


def _why_unused(tuned: Tuned, target: Checkpoint) -> str | None:
    from specgen.nn.device import choose_device  # noqa: PLC0415 - torch, where something was tuned alone

    if tuned.machine != machine(choose_device(Device.AUTO)):
        return f"it is for another machine ({tuned.machine})"
    if tuned.target != weights(target) or (tuned.draft and tuned.draft != _now(tuned.draft)):
        return "the models have changed since"
    return None


def _now(draft: Weights) -> Weights | None:
    """The draft as it is on this disk; None where it is not."""
    try:
        return weights(follow(find(ModelRef.parse(draft.id), offline=True), lambda _: None))
    except SpecgenError:
        return None


def reset_tuned(target: str, draft: str, *, json: bool) -> None:
    """Drop what was found for a target with a draft, named as for a Session; with any draft where that is auto."""
    dropped = {path: tuned for path, tuned in all_tuned(resolve(target)).items() if _is_of(tuned, resolve_draft(draft))}
    for path in dropped:
        path.unlink(missing_ok=True)
    if json:
        print_json({"dropped": [str(path) for path in dropped]})
        return
    for tuned in dropped.values():
        typer.echo(f"dropped: {tuned.in_words()}, on {sanitize(tuned.machine)}")
    if not dropped:
        typer.echo("nothing was tuned for it")


def _is_of(tuned: Tuned, draft: str) -> bool:
    if draft in (AUTO, LOOKUP):
        return draft == AUTO or tuned.draft is None
    return tuned.draft is not None and tuned.draft.id == name_of(ModelRef.parse(draft))
