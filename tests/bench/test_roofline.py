"""Bytes that a forward pass reads, and the passes that are timed."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from specgen.bench import roofline
from specgen.bench.roofline import bandwidth, forward_times, weight_bytes
from specgen.checkpoint.checkpoint import Checkpoint
from specgen.checkpoint.weights import tensor_shapes
from specgen.core.types import ModelRef, Quant
from specgen.nn.device import Placement
from tests.fakes import VOCAB, TableModel

FLOAT32 = Placement(torch.device("cpu"), torch.float32)


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(ModelRef(str(folder)), folder)


def parameters(folder: Path) -> int:
    """Of every matrix in the file."""
    shapes = [shape for _, shape in tensor_shapes(folder / "model.safetensors").values()]
    return sum(shape[0] * shape[1] for shape in shapes if len(shape) == 2)


def test_the_head_is_read_and_the_embedding_is_not(checkpoints: Any) -> None:
    folder = checkpoints.target("llama")
    assert weight_bytes(checkpoint(folder), FLOAT32) == 4 * (parameters(folder) - VOCAB * 32)


def test_a_tied_head_is_read(checkpoints: Any) -> None:
    folder = checkpoints.make("llama-tied", "llama", tie_word_embeddings=True)
    bfloat16 = Placement(torch.device("cpu"), torch.bfloat16)
    assert weight_bytes(checkpoint(folder), bfloat16) == 2 * parameters(folder)


def test_int8_is_a_byte_a_weight_and_a_scale_a_group(checkpoints: Any) -> None:
    folder = checkpoints.target("llama")
    shapes = [shape for _, shape in tensor_shapes(folder / "model.safetensors").values() if len(shape) == 2]
    groups = sum(rows * -(-columns // 32) for rows, columns in shapes) - VOCAB
    int8 = dataclasses.replace(FLOAT32, quant=Quant.INT8)
    assert weight_bytes(checkpoint(folder), int8) == parameters(folder) - VOCAB * 32 + 2 * groups


def test_what_a_pass_over_experts_reads_is_unknown(checkpoints: Any) -> None:
    assert weight_bytes(checkpoint(checkpoints.target("mixtral")), FLOAT32) is None


def test_passes_of_every_width_follow_a_context_that_is_cached() -> None:
    model: Any = TableModel(VOCAB)
    model.context_length = 100
    done = forward_times({"target": (model, 12)})["target"]
    assert (done.weight_bytes, done.context, list(done.seconds)) == (12, 84, [1, 2, 4, 8, 16])
    assert model.calls[:5] == [(84 + width, width) for width in (1, 2, 4, 8, 16)]
    assert model.fed == 84 + sum(width for _, width in model.calls), "the context was read once"


def test_bandwidth_is_bytes_over_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that says two seconds to every reading."""
    ticks = iter(range(0, 1000, 2))
    monkeypatch.setattr(roofline, "_READ", 1 << 12)
    monkeypatch.setattr("specgen.bench.roofline.time.perf_counter", lambda: next(ticks))
    assert bandwidth(torch.device("cpu")) == (1 << 12) / 2
