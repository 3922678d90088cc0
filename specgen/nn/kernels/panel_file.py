"""Panels on disk: packed once for each file of weights, then memory-mapped, so that processes share them."""

import contextlib
import json
import mmap
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from specgen.nn.kernels.grouped import GROUP
from specgen.nn.kernels.panels import GROUP_BYTES, PANEL, Packable, Panels, scale_bytes

# Part of every key. A change of the layout of panels needs another number.
_VERSION = 1
# Arrays begin at a multiple of this many bytes, which vector instructions read fastest.
_ALIGNMENT = 64
# Weights that are packed at a time. Their temporary arrays stay in a processor's second cache.
_PIECE = 1 << 21


Matrices: TypeAlias = Mapping[str, Panels]
"""The panels of matrices by name."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the panels of a matrix lie: offsets in bytes of their levels and scales."""

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

    def panels_in(self, data: NDArray[np.uint8]) -> Panels:
        levels = data[self.levels :][: self.panels * self.level_bytes].reshape(self.panels, self.groups, -1)
        scales = data[self.scales :][: self.panels * self.scale_bytes].reshape(self.panels, -1)
        return Panels(levels, scales, self.bits, self.zero, self.kind, self.outputs, self.inputs)


def find(weights: Sequence[Path], form: str) -> Matrices | None:
    """The packed matrices of these weight files, None unless all of them are on disk and whole."""
    try:
        index_path = _base(weight_cache.digest(weights), form).with_suffix(".json")
        index = read_json(index_path)
        with index_path.with_suffix(".bin").open("rb") as file:
            if weight_cache.sampled(file) != index["samples"]:
                return None
            data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        return _mapped({name: _Place(**place) for name, place in index["matrices"].items()}, data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def create(name: str, weights: Sequence[Path], form: str, sources: Mapping[str, Packable]) -> Reporting[Matrices]:
    """Pack the matrices of a model with the files `weights` to disk, and map them from there.

    `form` names what `sources` makes of the weights. Yields Progress with the word packing and the model's `name`, and
    a Notice where the disk keeps nothing: then the matrices are in memory.
    """
    jobs, places, size = _plan(sources)
    try:
        return (yield from _pack_to_disk(name, weights, form, jobs, places, size))
    except OSError as error:
        reason = error.strerror or str(error)
        yield Notice(f"the packed weights could not be saved ({reason}): the next start packs again")
    memory = np.frombuffer(mmap.mmap(-1, size), np.uint8)

    def write(start: int, data: NDArray[np.uint8]) -> None:
        memory[start : start + data.size] = data.reshape(-1)

    yield from _run(name, jobs, size, write)
    return _mapped(places, memory)


def _mapped(places: Mapping[str, _Place], data: NDArray[np.uint8]) -> Matrices:
    return {name: place.panels_in(data) for name, place in places.items()}


@dataclass(frozen=True, slots=True)
class _Job:
    """Packs the panels from `start` to `stop` of a matrix."""

    matrix: Packable
    place: _Place
    start: int
    stop: int

    def run(self, write: Callable[[int, NDArray[np.uint8]], object], meter: Meter) -> None:
        levels = np.empty((self.stop - self.start, self.place.groups, GROUP_BYTES[self.place.bits]), np.uint8)
        scales = np.empty((self.stop - self.start, self.place.scale_bytes), np.uint8)
        self.matrix.pack(self.start, self.stop, levels, scales)
        write(self.place.levels + self.start * self.place.level_bytes, levels)
        write(self.place.scales + self.start * self.place.scale_bytes, scales)
        meter.add(levels.nbytes + scales.nbytes)


def _plan(sources: Mapping[str, Packable]) -> tuple[list[_Job], dict[str, _Place], int]:
    """The jobs that pack all matrices, where these lie, and the size of the file in bytes."""
    jobs: list[_Job] = []
    places: dict[str, _Place] = {}
    end = 0
    for name, matrix in sources.items():
        (outputs, inputs), of = matrix.shape, matrix.format
        place = _Place(outputs, inputs, of.bits, of.zero, of.kind, end, 0)
        place = replace(place, scales=_aligned(end + place.panels * place.level_bytes))
        end = _aligned(place.scales + place.panels * place.scale_bytes)
        places[name] = place
        each = max(1, _PIECE // (PANEL * GROUP * place.groups))
        jobs += [_Job(matrix, place, start, min(place.panels, start + each)) for start in range(0, place.panels, each)]
    return jobs, places, end


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
    places: Mapping[str, _Place],
    size: int,
) -> Reporting[Matrices]:
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
    placed = {matrix: asdict(place) for matrix, place in places.items()}
    index = {"weights": paths, "content": content, "form": form, "samples": samples, "matrices": placed}
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
