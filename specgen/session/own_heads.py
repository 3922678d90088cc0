"""The heads that were trained on this machine, and which of them `--draft auto` uses."""

import re
from pathlib import Path

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.errors import SpecgenError
from specgen.core.files import data_folder, read_object
from specgen.core.types import ModelRef

RECORD = "training.json"
"""The file of a trained head with the facts of its training."""


def head_folder(target: Checkpoint) -> Path:
    """The folder of the head that `specgen train` makes for `target`, present or not."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "--", target.ref.name).strip("-.") or "target"
    return data_folder() / "heads" / name


def own_head(target: Checkpoint) -> tuple[Checkpoint, float] | None:
    """A head trained here for this commit of `target`, and its measured speed-up; None unless it was faster."""
    folder = head_folder(target)
    try:
        record = read_object(folder / RECORD, hint="train it again", missing_ok=True)
    except SpecgenError:
        return None
    fits = record.get("target") == target.ref.name and record.get("revision") == target.commit
    speed_up = record.get("speed_up")
    if not fits or record.get("faster") is not True or not isinstance(speed_up, int | float):
        return None
    head = Checkpoint(ModelRef(str(folder)), folder)
    return (head, float(speed_up)) if head.is_complete else None
