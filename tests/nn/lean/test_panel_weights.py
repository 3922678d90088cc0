"""The panels of a model: each matrix has the weights that the float decoder reads, in the same order."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.events import Notice
from specgen.core.progress import follow
from specgen.core.types import ModelRef, Quant
from specgen.nn.device import Placement
from specgen.nn.kernels import panel_file
from specgen.nn.kernels.grouped import GroupedMatrix
from specgen.nn.kernels.linear import Linear
from specgen.nn.kernels.linears import Matrices
from specgen.nn.kernels.panels import unpack
from specgen.nn.lean.load import open_tensors, read_checkpoint_architecture
from specgen.nn.lean.panel_weights import MATRICES, load_matrices, name_of
from specgen.nn.lean.weights import EMBEDDING, read_weights
from tests.gguf_files import write_gguf
from tests.nn.lean.checkpoints import MODELS, save
from tests.nn.lean.test_gguf_weights import MODELS as GGUF_MODELS
from tests.nn.lean.test_gguf_weights import made

pytestmark = pytest.mark.usefixtures("shelf")
TYPES = gguf.GGMLQuantizationType
PARTS = {"qkv": MATRICES[:3], "o_proj": ["output"], "gate": ["gate", "up"], "down": ["down"]}


class FloatMatrices:
    """Linears that keep the matrices that the float decoder would multiply with, and multiply nothing."""

    rows = 1

    def __init__(self) -> None:
        self.found: list[torch.Tensor] = []

    def make(self, name: str, weights: Matrices, bias: torch.Tensor | None) -> Linear:
        self.found.append(torch.cat([weight.float() for weight in weights()]))
        return lambda rows: rows


def half_levels(matrix: GroupedMatrix) -> np.ndarray:
    """Half a level of each weight, and a little for rounding. In 4 bits half a level more, beyond the last one."""
    scale = matrix.scale.astype(np.float32)
    if matrix.super_scale is not None:
        scale *= np.repeat(matrix.super_scale, 8, axis=1)[:, : scale.shape[1]]
    each = np.repeat(scale, 32, axis=1)[:, : matrix.shape[1]]
    return each * (1.001 if matrix.bits == 4 else 0.501)


def read(
    checkpoint: Checkpoint, quant: Quant = Quant.INT8
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray], list[Any]]:
    """What the float decoder reads, the weights of the panels, half a level of each; and the events."""
    architecture = read_checkpoint_architecture(checkpoint)
    assert not isinstance(architecture, str), architecture
    tensors, linears = open_tensors(checkpoint), FloatMatrices()
    placement = Placement(torch.device("cpu"), torch.float32)
    for _ in read_weights(architecture, tensors, placement, linears):
        pass
    told: list[Any] = []
    matrices = follow(load_matrices(checkpoint, architecture, tensors, quant), told.append)
    names = [["head"]]
    for layer in range(len(architecture.layers)):
        names += [[name_of(layer, matrix) for matrix in parts] for parts in PARTS.values()]
    assert {name for parts in names for name in parts} == matrices.keys()
    found, errors = [], []
    for parts in names:
        grouped = [unpack(matrices[name]) for name in parts]
        found.append(np.concatenate([matrix.dequantize() for matrix in grouped]))
        errors.append(np.concatenate([half_levels(matrix) for matrix in grouped]))
    return [matrix.numpy() for matrix in linears.found], found, errors, told


@pytest.mark.parametrize("name", MODELS)
def test_matrices_of_every_family_are_in_the_order_of_the_decoder(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "M", **MODELS[name])
    expected, found, errors, _ = read(Checkpoint(ModelRef(str(folder)), folder))
    for wanted, rows, error in zip(expected, found, errors, strict=True):
        assert (np.abs(rows - wanted) <= error).all()


@pytest.mark.parametrize("kind", [TYPES.F32, TYPES.BF16], ids=str)
@pytest.mark.parametrize("name", GGUF_MODELS)
def test_floating_point_weights_of_a_gguf_file_are_rounded(tmp_path: Path, name: str, kind: Any) -> None:
    expected, found, errors, _ = read(write_gguf(tmp_path / "m.gguf", made(tmp_path, GGUF_MODELS[name]), kind))
    for wanted, rows, error in zip(expected, found, errors, strict=True):
        assert (np.abs(rows - wanted) <= error).all()


@pytest.mark.parametrize("kind", [TYPES.Q4_0, TYPES.Q5_1, TYPES.Q8_0], ids=str)
@pytest.mark.parametrize("name", GGUF_MODELS)
def test_quantized_weights_of_a_gguf_file_stay_the_same_to_the_bit(tmp_path: Path, name: str, kind: Any) -> None:
    expected, found, _, told = read(write_gguf(tmp_path / "m.gguf", made(tmp_path, GGUF_MODELS[name]), kind))
    for wanted, rows in zip(expected, found, strict=True):
        np.testing.assert_array_equal(rows, wanted)
    assert not [event for event in told if isinstance(event, Notice)]


@pytest.mark.parametrize("name", MODELS)
def test_int4_keeps_8_bits_where_rounding_costs_most(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "M", **MODELS[name])
    checkpoint = Checkpoint(ModelRef(str(folder)), folder)
    expected, found, errors, _ = read(checkpoint, Quant.INT4)
    for wanted, rows, error in zip(expected, found, errors, strict=True):
        assert (np.abs(rows - wanted) <= error).all()
    matrices = panel_file.find(checkpoint.weight_files, "int4")
    assert matrices is not None
    bits = {name.rpartition(".")[2]: panels.bits for name, panels in matrices.items()}
    architecture = read_checkpoint_architecture(checkpoint)
    assert not isinstance(architecture, str)
    shared = 8 if architecture.kv_heads < architecture.heads else 4
    assert bits == dict.fromkeys(MATRICES, 4) | {"head": 8, "keys": shared, "values": shared}
    tensors = open_tensors(checkpoint)
    draft = follow(load_matrices(checkpoint, architecture, tensors, Quant.INT4, is_draft=True), lambda _: None)
    assert draft["head"].bits == 4
    assert draft["0.keys"].bits == shared
    assert follow(load_matrices(checkpoint, architecture, tensors, Quant.INT4), lambda _: None)["head"].bits == 8


@pytest.mark.parametrize(("kind", "bits"), [(TYPES.Q4_0, 4), (TYPES.Q5_1, 4), (TYPES.Q8_0, 4)], ids=str)
def test_int4_rounds_only_blocks_of_more_bits(tmp_path: Path, kind: Any, bits: int) -> None:
    checkpoint = write_gguf(tmp_path / "m.gguf", made(tmp_path, GGUF_MODELS["llama"]), kind)
    expected, found, errors, _ = read(checkpoint, Quant.INT4)
    exact = kind == TYPES.Q4_0
    for wanted, rows, error in zip(expected, found, errors, strict=True):
        assert (np.abs(rows - wanted) <= (0 if exact else error)).all()
    matrices = panel_file.find(checkpoint.weight_files, "int4")
    assert matrices is not None
    assert matrices["0.up"].bits == bits


def test_a_type_without_an_exact_form_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = TYPES.Q2_K
    block, size = gguf.GGML_QUANT_SIZES[kind]

    def quantize(data: np.ndarray, kind: Any) -> np.ndarray:
        """Arbitrary blocks: gguf cannot make this type."""
        if kind == TYPES.F32:
            return data
        dice = np.random.default_rng(0)
        return dice.integers(0, 52, (data.shape[0], data.shape[1] // block * size), dtype=np.uint8)

    monkeypatch.setattr(gguf, "quantize", quantize)
    folder = made(tmp_path, GGUF_MODELS["llama"] | {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64})
    checkpoint = write_gguf(tmp_path / "m.gguf", folder, kind)
    expected, found, errors, told = read(checkpoint)
    for wanted, rows, error in zip(expected, found, errors, strict=True):
        assert (np.abs(rows - wanted) <= error + 1e-6).all()
    assert [event.text for event in told if isinstance(event, Notice)] == [
        f"{checkpoint.path} has weights of the type Q2_K, which are rounded to 8 bits"
    ]
    assert not [event for event in read(checkpoint)[3] if isinstance(event, Notice)], "said once"


@pytest.mark.parametrize("kind", [TYPES.F32, TYPES.BF16, TYPES.Q5_0], ids=str)
def test_rows_of_the_embedding_are_read_alone(tmp_path: Path, kind: Any) -> None:
    tensors = open_tensors(write_gguf(tmp_path / "m.gguf", made(tmp_path, GGUF_MODELS["gemma2"]), kind))
    ids = [3, 0, 7, 3]
    assert torch.equal(tensors.values(EMBEDDING, ids), tensors[EMBEDDING].float()[ids])
