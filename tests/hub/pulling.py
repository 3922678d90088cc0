"""Download models from the test hub in this process."""

from specgen.checkpoint.checkpoint import Checkpoint, fetch_weights, find
from specgen.core.progress import follow
from specgen.core.types import ModelRef


def small(source: str = "org/m", *, offline: bool = False, events: list[object] | None = None) -> Checkpoint:
    return follow(find(ModelRef.parse(source), offline=offline), [].append if events is None else events.append)


def whole(source: str = "org/m", *, offline: bool = False, events: list[object] | None = None) -> Checkpoint:
    checkpoint = small(source, offline=offline, events=events)
    return follow(fetch_weights(checkpoint, offline=offline), [].append if events is None else events.append)


def names(checkpoint: Checkpoint) -> set[str]:
    return {path.relative_to(checkpoint.path).as_posix() for path in checkpoint.path.rglob("*") if path.is_file()}
