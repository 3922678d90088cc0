"""Panels on disk: packed once for each file of weights, then memory-mapped, so that processes share them."""

import contextlib
import json
import mmap
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specgen.core.events import Notice
from specgen.core.files import read_json, replace_file
from specgen.core.machine import cores
from specgen.core.progress import Meter, Reporting, run_jobs
from specgen.nn.kernels import weight_cache
from specgen.nn.kernels.grouped import GROUP, Format, Rows
from specgen.nn.kernels.panels import GROUP_BYTES, PANEL, Panels, pack_into, scale_bytes

# Part of every key. A change of the layout of panels needs another number.
_VERSION = 1
# Arrays begin at a multiple of this many bytes, which vector instructions read fastest.
_ALIGNMENT = 64
# Weights that are packed at a time. Their temporary arrays stay in a processor's second cache.
_PIECE = 1 << 21


@dataclass(frozen=True, slots=True)
class Part:
    """Some outputs of a linear layer: panels whose first output is the layer's output `first`."""

    first: int
    panels: Panels


Layers: TypeAlias = Mapping[str, tuple[Part, ...]]
"""Name -> a linear layer. Its outputs follow each other, and each part has one format."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a part lies: offsets in bytes of its levels and scales."""

    first: int
    outputs: int
    inputs: int
    bits: Any
    zero: int
    kind: Any
    levels: int
    scales: int

    @property
    def groups(self) -> int:
        return -(-self.inputs // GROUP)

    @property
    def panels(self) -> int:
        return -(-self.outputs // PANEL)

    @property
    def level_bytes(self) -> int:
        """Bytes of the levels of a panel."""
        return self.groups * int(GROUP_BYTES[self.bits])

    @property
    def scale_bytes(self) -> int:
        """Bytes of the scales of a panel."""
        return scale_bytes(self.kind, self.groups)

    def part(self, data: NDArray[np.uint8]) -> Part:
        levels = data[self.levels :][: self.panels * self.level_bytes].reshape(self.panels, self.groups, -1)
        scales = data[self.scales :][: self.panels * self.scale_bytes].reshape(self.panels, -1)
        panels = Panels(levels, scales, self.bits, self.zero, self.kind, self.outputs, self.inputs)
        return Part(self.first, panels)


def load(
    name: str, weights: Sequence[Path], form: str, sources: Callable[[], Mapping[str, Sequence[Rows]]]
) -> Reporting[Layers]:
    """The layers of a model with the files `weights`, mapped from disk, or packed there first.

    `form` names what `sources` makes of the weights. Each layer of `sources` is the rows of some matrices, one after
    the other. Yields Progress with the word packing and the model's `name`, and a Notice where the disk keeps nothing.
    """
    found = find(weights, form)
    if found is not None:
        return found
    jobs, places, size = _plan(sources())
    try:
        return (yield from _pack_to_disk(name, weights, form, jobs, places, size))
    except OSError as error:
        reason = error.strerror or str(error)
        yield Notice(f"the packed weights could not be saved ({reason}): the next start packs again")
    memory = np.frombuffer(mmap.mmap(-1, size), np.uint8)

    def write(start: int, data: NDArray[np.uint8]) -> None:
        memory[start : start + data.size] = data.reshape(-1)

    yield from _run(name, jobs, size, write)
    return _layers(places, memory)


def find(weights: Sequence[Path], form: str) -> Layers | None:
    """The packed layers of these weight files, None unless all of them are on disk and whole."""
    try:
        index_path = _base(weight_cache.digest(weights), form).with_suffix(".json")
        index = read_json(index_path)
        with index_path.with_suffix(".bin").open("rb") as file:
            if weight_cache.sampled(file) != index["samples"]:
                return None
            data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        places = {name: [_Place(**place) for place in places] for name, places in index["layers"].items()}
        return _layers(places, data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _layers(places: Mapping[str, Sequence[_Place]], data: NDArray[np.uint8]) -> Layers:
    return {name: tuple(place.part(data) for place in parts) for name, parts in places.items()}


@dataclass(frozen=True, slots=True)
class _Job:
    """Packs the panels from `start` to `stop` of a part, from rows whose first panel is `above`."""

    rows: Rows
    place: _Place
    above: int
    start: int
    stop: int

    def run(self, write: Callable[[int, NDArray[np.uint8]], object], meter: Meter) -> None:
        first, last = (PANEL * (panel - self.above) for panel in (self.start, self.stop))
        levels = np.empty((self.stop - self.start, self.place.groups, GROUP_BYTES[self.place.bits]), np.uint8)
        scales = np.empty((self.stop - self.start, self.place.scale_bytes), np.uint8)
        pack_into(self.rows.read(slice(first, last)), levels, scales)
        write(self.place.levels + self.start * self.place.level_bytes, levels)
        write(self.place.scales + self.start * self.place.scale_bytes, scales)
        meter.add(levels.nbytes + scales.nbytes)


def _plan(sources: Mapping[str, Sequence[Rows]]) -> tuple[list[_Job], dict[str, list[_Place]], int]:
    """The jobs that pack all layers, where their parts lie, and the size of the file in bytes."""
    jobs: list[_Job] = []
    places: dict[str, list[_Place]] = {}
    end = 0
    for name, matrices in sources.items():
        places[name], first = [], 0
        for joined in _joined(matrices):
            outputs, (inputs, of) = sum(rows.shape[0] for rows in joined), (joined[0].shape[1], joined[0].format)
            place = _Place(first, outputs, inputs, of.bits, of.zero, of.kind, end, 0)
            place = _Place(**asdict(place) | {"scales": _aligned(end + place.panels * place.level_bytes)})
            end = _aligned(place.scales + place.panels * place.scale_bytes)
            places[name].append(place)
            first += outputs
            jobs += _jobs(joined, place)
    return jobs, places, end


def _joined(matrices: Sequence[Rows]) -> Iterator[list[Rows]]:
    """Neighbours that can share panels: of one format, and each but the last fills its panels."""
    run: list[Rows] = []

    def key(rows: Rows) -> tuple[Format, int]:
        return rows.format, rows.shape[1]

    for rows in matrices:
        if run and (run[-1].shape[0] % PANEL or key(run[-1]) != key(rows)):
            yield run
            run = []
        run.append(rows)
    yield run


def _jobs(joined: Sequence[Rows], place: _Place) -> Iterator[_Job]:
    each = max(1, _PIECE // (PANEL * GROUP * place.groups))
    above = 0
    for rows in joined:
        end = above - -rows.shape[0] // PANEL
        for start in range(above, end, each):
            yield _Job(rows, place, above, start, min(end, start + each))
        above = end


def _aligned(size: int) -> int:
    return size + -size % _ALIGNMENT


def _run(
    name: str, jobs: Sequence[_Job], size: int, write: Callable[[int, NDArray[np.uint8]], object]
) -> Reporting[None]:
    yield from run_jobs(f"packing {name}", 0, size, [partial(job.run, write) for job in jobs], cores())


def _pack_to_disk(
    name: str,
    weights: Sequence[Path],
    form: str,
    jobs: Sequence[_Job],
    places: Mapping[str, Sequence[_Place]],
    size: int,
) -> Reporting[Layers]:
    """Write an entry and map it. Raises OSError, and then leaves nothing behind."""
    content = weight_cache.digest(weights)
    base = _base(content, form)
    base.parent.mkdir(parents=True, exist_ok=True)
    weight_cache.remove_abandoned()
    descriptor, part = tempfile.mkstemp(suffix=".part", dir=base.parent)
    try:
        with open(descriptor, "r+b", buffering=0) as file:  # noqa: PTH123 - a descriptor
            with contextlib.suppress(OSError):  # a file system without locks
                weight_cache.lock(file)
            yield from _run(name, jobs, size, _Writer(file).write)
            file.truncate(size)  # the last array may end early
            samples = weight_cache.sampled(file)
        Path(part).replace(base.with_suffix(".bin"))
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    paths = [str(path.resolve()) for path in weights]
    placed = {layer: [asdict(place) for place in parts] for layer, parts in places.items()}
    index = {"weights": paths, "content": content, "form": form, "samples": samples, "layers": placed}
    replace_file(base.with_suffix(".json"), json.dumps(index))
    for path, other in weight_cache.indexes():
        # The same files before they changed, or an older layout of panels.
        if path.stem != base.name and other["weights"] == paths and other.get("form") in (form, None):
            weight_cache.delete(path)
    found = find(weights, form)
    if found is None:
        raise OSError("the weights change while they are read")
    return found


class _Writer:
    """Writes to a file in any order, from several threads."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lock = Lock()

    def write(self, start: int, data: NDArray[np.uint8]) -> None:
        """Write all of `data` at `start`. Raises OSError."""
        with self._lock:
            left = data.reshape(-1).data
            self._file.seek(start)
            while left:
                left = left[self._file.write(left) :]


def _base(content: str, form: str) -> Path:
    """The path of an entry without its suffix."""
    return weight_cache.folder() / weight_cache.key(content, f"panels {_VERSION} {form}")
