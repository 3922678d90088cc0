"""Move the pin of a model to the newest commit of the hub, or back to the former one."""

from dataclasses import dataclass, replace

from specgen.checkpoint.checkpoint import Checkpoint, fetch_all, find
from specgen.checkpoint.comparison import ModelChange, compare
from specgen.core.errors import ModelNotFound, SpecgenError, UsageError
from specgen.core.events import Notice
from specgen.core.progress import Reporting
from specgen.core.types import ModelRef
from specgen.hub import pins
from specgen.hub.find import gated_notice, resolve
from specgen.hub.snapshot import Snapshot, cached_commit, is_commit


@dataclass(frozen=True, slots=True)
class Update:
    """The changes from the commit in use, `before`, to `after`, the newest commit of `revision`."""

    ref: ModelRef
    revision: str
    before: str
    after: str
    new: Checkpoint
    changes: list[ModelChange]

    @property
    def is_needed(self) -> bool:
        return self.before != self.after

    @property
    def download_bytes(self) -> int:
        """The size of the weights to download, in bytes."""
        return 0 if self.new.is_complete else self.new.weight_bytes


def find_update(ref: ModelRef) -> Reporting[Update]:
    """Resolve the newest commit, download its small files and compare. Raises ModelNotFound for an unused model."""
    pin = pins.pin_of(ref.source)
    before = pin.commit if pin else cached_commit(replace(ref, revision=None))
    if before is None:
        raise ModelNotFound(f"{ref.source} is not in use yet", hint=f"get it with `specgen pull {ref}`")
    followed = pin.revision if pin and not is_commit(pin.revision) else "main"
    revision = ref.revision or followed
    after, gated = resolve(replace(ref, revision=revision))
    new = yield from find(replace(ref, revision=after), offline=False)
    if gated and after != before:
        yield gated_notice(ref)
    changes: list[ModelChange] = []
    if after != before:
        try:
            old = yield from find(replace(ref, revision=before), offline=False)
            changes = compare(old, new)
        except SpecgenError as error:
            yield Notice(f"the commit in use cannot be compared: {error.message}")
    return Update(ref, revision, before, after, new, changes)


def apply_update(update: Update) -> Reporting[None]:
    """Download the new commit and pin it."""
    yield from fetch_all([update.new], offline=False)
    Snapshot(replace(update.ref, revision=update.revision), update.after).update_ref()
    pins.move(update.ref.source, update.after, update.revision, was=update.before)


def roll_back(ref: ModelRef, *, offline: bool) -> Reporting[tuple[str, str]]:
    """Pin the former commit. Returns the commits before and after. Raises UsageError without a former commit."""
    pin = pins.pin_of(ref.source)
    if pin is None or not pin.former:
        raise UsageError(f"{ref.source} has no former commit", hint="`specgen show` says which one is in use")
    former = yield from find(replace(ref, revision=pin.former[-1]), offline=offline)
    yield from fetch_all([former], offline=offline)
    pins.roll_back(ref.source)
    return pin.commit, pin.former[-1]
