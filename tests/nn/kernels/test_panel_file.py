"""Panels on disk: the second start maps what the first packed, and whatever is damaged is packed again."""

import errno
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specgen.core.events import Notice, Progress
from specgen.core.progress import follow
from specgen.nn.kernels import panel_file, weight_cache
from specgen.nn.kernels.grouped import Format, GroupedMatrix
from specgen.nn.kernels.panel_file import Matrices
from specgen.nn.kernels.panels import pack_into, unpack
from tests.nn.kernels.matrices import random_matrix

MATRICES = {
    "queries": random_matrix(4, 0, "super", 64, 320, seed=1),
    "values": random_matrix(6, 32, "halves", 32, 320, seed=3),
    "output": random_matrix(8, 128, "plain", 50, 96, seed=4),
    "down": random_matrix(5, 16, "plain", 7, 96, seed=5),
}


@dataclass
class MatrixRows:
    """Rows of a matrix in memory."""

    matrix: GroupedMatrix

    @property
    def format(self) -> Format:
        return self.matrix.format

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    def pack(self, start: int, stop: int, levels: np.ndarray, scales: np.ndarray) -> None:
        pack_into(self.matrix.rows(slice(16 * start, 16 * stop)), levels, scales)


def sources() -> Mapping[str, MatrixRows]:
    return {name: MatrixRows(matrix) for name, matrix in MATRICES.items()}


def load(weights: Path, form: str = "some") -> tuple[Matrices, list[Any]]:
    """The matrices, mapped or packed, and the events of packing them."""
    told: list[Any] = []
    found = panel_file.find([weights], form)
    return found or follow(panel_file.create("M", [weights], form, sources()), told.append), told


def check(found: Matrices) -> None:
    """Every weight is the one of its source."""
    assert list(found) == list(MATRICES)
    for name, matrix in MATRICES.items():
        np.testing.assert_array_equal(unpack(found[name]).dequantize(), matrix.dequantize(), strict=True)


@pytest.fixture
def weights(tmp_path: Path, shelf: Path) -> Path:
    """A file of weights; its content only names the entry."""
    path = tmp_path / "w.gguf"
    path.write_bytes(b"some weights")
    return path


def test_the_first_start_packs_and_the_second_maps(weights: Path) -> None:
    found, told = load(weights)
    check(found)
    progress = [event for event in told if isinstance(event, Progress)]
    assert {event.what for event in progress} == {"packing M"}
    assert progress[-1].done == progress[-1].total > 0
    mapped, told = load(weights)
    check(mapped)
    assert told == []
    assert not mapped["queries"].levels.flags.writeable
    assert all(panels.levels.ctypes.data % 64 == panels.scales.ctypes.data % 64 == 0 for panels in mapped.values())


def test_pieces_of_any_size_give_the_same_panels(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel_file, "_PIECE", 1)
    check(load(weights)[0])


@pytest.mark.parametrize("harm", ["cut short", "an empty page", "no index", "an index of nonsense", "no data"])
def test_a_damaged_entry_is_packed_again(weights: Path, shelf: Path, harm: str) -> None:
    load(weights)
    index, data = next(shelf.glob("*.json")), next(shelf.glob("*.bin"))
    whole = data.read_bytes()
    if harm == "cut short":
        data.write_bytes(whole[:-1])
    elif harm == "an empty page":
        data.write_bytes(whole[:4096] + bytes(4096) + whole[8192:])
    elif harm == "no data":
        data.unlink()
    else:
        index.write_text('{"samples": ' if harm == "no index" else '{"matrices": 1}')
    found, told = load(weights)
    assert told
    check(found)
    assert panel_file.find([weights], "some")
    assert len(list(shelf.iterdir())) == 2


def test_a_changed_file_replaces_its_entry_of_the_same_form(weights: Path, shelf: Path) -> None:
    load(weights)
    load(weights, "other")
    weights.write_bytes(b"other weights")
    assert load(weights)[1]
    assert len(list(shelf.glob("*.bin"))) == 2
    assert load(weights, "other")[1], "the old one stays until its own form is packed again"
    assert len(list(shelf.glob("*.bin"))) == 2
    assert panel_file.find([weights], "some")


def test_a_full_disk_costs_a_notice(weights: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(panel_file, "open", lambda file, *_, **__: Full(file, "r+"), raising=False)
    found, told = load(weights)
    check(found)
    assert [event.text for event in told if isinstance(event, Notice)] == [
        "the packed weights could not be saved (No space left on device): the next start packs again"
    ]
    assert list(shelf.iterdir()) == []


def test_a_folder_that_cannot_be_made_costs_a_notice(weights: Path, shelf: Path) -> None:
    shelf.write_text("in the way")
    found, told = load(weights)
    check(found)
    assert [event for event in told if isinstance(event, Notice)]


def test_an_interrupted_start_leaves_nothing_behind(weights: Path, shelf: Path) -> None:
    loading = panel_file.create("M", [weights], "some", sources())
    next(loading)
    assert list(shelf.iterdir())
    loading.close()
    assert list(shelf.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_start_leaves_nothing_behind_the_next(weights: Path, shelf: Path) -> None:
    living = panel_file.create("M", [weights], "living", sources())
    next(living)
    if not (child := os.fork()):
        killed = panel_file.create("M", [weights], "killed", sources())
        next(killed)
        os._exit(1)
    os.waitpid(child, 0)
    assert len(list(shelf.glob("*.part"))) == 2
    load(weights)
    assert len(list(shelf.glob("*.part"))) == 1, "that of the living start"
    living.close()


def test_weights_that_are_gone_take_their_entry_with_them(weights: Path, shelf: Path) -> None:
    load(weights)
    assert weight_cache.prune() == 0
    weights.unlink()
    assert weight_cache.prune() > 0
    assert list(shelf.iterdir()) == []
