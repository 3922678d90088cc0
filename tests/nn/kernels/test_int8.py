"""Int8 layers: exact sums, rows independent of each other, and packed weights that are read again."""

import errno
import io
import os
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.errors import DeviceUnavailable, UnsupportedModel, UsageError
from specgen.core.events import Notice, Progress
from specgen.core.progress import follow
from specgen.core.tokens import Tokens
from specgen.core.types import Device, Dtype, EngineOptions, ModelRef, Quant
from specgen.nn.device import Placement, choose_device, place
from specgen.nn.kernels import int8, int8_kernels, pack, pack_file, weight_cache
from specgen.nn.kernels.int8_kernels import Bf16Dot, Int7Dot, Int8Dot
from specgen.nn.lean.load import load_decoder, read_checkpoint_architecture
from specgen.nn.lean.model import LeanModel
from tests.nn.lean.checkpoints import MODELS, VOCAB, load, save

IDS = random.Random(1).choices(range(VOCAB), k=2100)
CPU = torch.device("cpu")

KERNELS = [kernel for kernel in int8.KERNELS if kernel.works()]

pytestmark = [
    pytest.mark.skipif(not KERNELS, reason="this processor has no int8 kernel"),
    pytest.mark.usefixtures("shelf", "one_thread"),
]


@pytest.fixture(autouse=True, params=KERNELS, ids=lambda kernel: type(kernel).__name__.lower())
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int8.Kernel:
    """Choose each kernel of this processor in turn."""
    chosen: int8.Kernel = request.param
    monkeypatch.setattr("specgen.nn.lean.load.choose_kernel", lambda: chosen)
    return chosen


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("llama"), **MODELS["llama"])


def opened(folder: Path) -> tuple[LeanModel, list[Any]]:
    """The model in int8, and the events of loading it."""
    checkpoint = Checkpoint(ModelRef(str(folder)), folder)
    architecture = read_checkpoint_architecture(checkpoint)
    assert not isinstance(architecture, str)
    told: list[Any] = []
    loading = load_decoder(checkpoint, architecture, Placement(CPU, torch.float32, int8=True), 512)
    return follow(loading, told.append), told


def doing(told: list[Any]) -> set[str]:
    return {event.what.split()[0] for event in told if isinstance(event, Progress)}


def random_layer(
    kernel: int8.Kernel, outer: int, inner: int, *, bias: bool
) -> tuple[Any, torch.Tensor, torch.Tensor | None]:
    torch.manual_seed(0)
    weight = torch.randn(outer, inner)
    offset = torch.randn(outer) if bias else None
    levels, scale = int8.quantize(weight.split(outer // 3))
    return kernel.linear(kernel.pack(levels), scale, offset), levels.float() * scale[:, None], offset


@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_multiplies_what_was_rounded(kernel: int8.Kernel, bias: bool) -> None:
    layer, weight, offset = random_layer(kernel, 99, 640, bias=bias)
    rows = torch.randn(37, 640)
    expected = torch.nn.functional.linear(rows, weight, offset)
    assert (layer(rows) - expected).std() < 0.02 * expected.std()


def test_outliers_cost_no_precision(kernel: int8.Kernel) -> None:
    layer, weight, _ = random_layer(kernel, 99, 640, bias=False)
    rows = torch.randn(37, 640)

    def loss() -> float:
        exact = rows @ weight.T
        return ((layer(rows) - exact)[::2].std() / exact[::2].std()).item()

    plain = loss()
    rows[::2, 7] = 300.0
    assert loss() < 1.2 * plain


def test_a_row_does_not_depend_on_the_rows_beside_it(kernel: int8.Kernel) -> None:
    layer, _, _ = random_layer(kernel, 99, 640, bias=True)
    rows = torch.randn(80, 640)
    rows[::3, 5] = 100.0  # some have outliers, some have not
    rows[9] = 0.0
    whole = layer(rows)
    for width in (1, 2, 3, 5, 8, 31, 33, 64):
        assert torch.equal(torch.cat([layer(piece) for piece in rows.split(width)]), whole)


def test_rows_whose_sums_could_overflow_are_refused() -> None:
    int8.quantize([torch.ones(1, 66_000)])
    with pytest.raises(UnsupportedModel, match="too wide"):
        int8.quantize([torch.ones(1, 67_000)])


@pytest.mark.skipif(not Int8Dot().works(), reason="this processor has no exact products of int8")
def test_a_kernel_that_saturates_is_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    right = int8_kernels._int8_multiplier

    def saturating(matrix: torch.Tensor, scale: torch.Tensor) -> Any:
        multiply = right(matrix, scale)
        return lambda levels: multiply(levels).clamp(-(2**15), 2**15)

    monkeypatch.setattr(int8_kernels, "_int8_multiplier", saturating)
    assert not Int8Dot().works()


@pytest.mark.skipif(not Int7Dot().works(), reason="this processor has no products of seven bits")
@pytest.mark.parametrize("fault", ["saturates", "gone"])
def test_a_kernel_that_is_not_exact_in_seven_bits_is_not_used(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    right = int8_kernels._int7_multiply

    def faulty(levels: torch.Tensor, packed: Any) -> torch.Tensor:
        if fault == "gone":
            raise AttributeError("no such operation")
        return right(levels, packed).clamp(-(2**20), 2**20)

    monkeypatch.setattr(int8_kernels, "_int7_multiply", faulty)
    assert not Int7Dot().works()


@pytest.mark.skipif(not Int7Dot().works(), reason="this processor has no products of seven bits")
def test_a_matrix_packed_in_pieces_is_the_same_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(5, 640)
    whole, _, _ = random_layer(Int7Dot(), 99, 640, bias=True)
    monkeypatch.setattr(int8_kernels, "_OUTPUTS", 7)
    pieces, _, _ = random_layer(Int7Dot(), 99, 640, bias=True)
    assert torch.equal(pieces(rows), whole(rows))


@pytest.mark.skipif(not Bf16Dot().works(), reason="this processor has no kernel for rounded rows")
@pytest.mark.parametrize("fault", ["rows see each other", "wrong"])
def test_a_kernel_that_is_not_exact_is_not_used(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    right = torch._weight_int8pack_mm

    def faulty(rows: torch.Tensor, levels: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        result = right(rows, levels, scale)
        return result * 1.05 if fault == "wrong" else result + len(rows)

    monkeypatch.setattr(torch, "_weight_int8pack_mm", faulty)
    assert not Bf16Dot().works()


def test_the_first_kernel_that_works_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [Int8Dot, Int7Dot, Bf16Dot]
    for kind in kinds:
        monkeypatch.setattr(kind, "works", lambda _: True)
    for kind in kinds:
        assert type(int8.choose_kernel.__wrapped__()) is kind
        monkeypatch.setattr(kind, "works", lambda _: False)
    assert int8.choose_kernel.__wrapped__() is None


@pytest.mark.parametrize("kind", MODELS)
def test_logits_are_the_same_to_the_bit_however_the_tokens_are_fed(tmp_path: Path, kind: str) -> None:
    folder = save(tmp_path, **MODELS[kind])
    model, _ = opened(folder)
    length = 300
    whole = model.forward(Tokens(IDS[:length]), length)
    for seed in (1, 2):
        model.forward(Tokens([3]), 1)
        assert torch.equal(in_pieces(model, 0, length, seed, 9), whole)
    exact = load(folder).forward(Tokens(IDS[:length]), length)
    assert divergence(exact, whole) < 0.01


@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_the_bits_hold_across_every_block_of_a_long_context(tmp_path: Path, head_dim: int) -> None:
    sizes = {"head_dim": head_dim, "hidden_size": 252, "num_hidden_layers": 2, "max_position_embeddings": 4096}
    model, _ = opened(save(tmp_path, **MODELS["llama"] | sizes))
    whole = model.forward(Tokens(IDS), len(IDS))
    model.forward(Tokens([3]), 1)
    for border in range(64, 2049, 64):
        start, width = border - random.Random(border).randint(1, 8), random.Random(-border).randint(9, 17)
        rows = in_pieces(model, start, start + width, border, width)
        assert torch.equal(rows, whole[start : start + width])


def in_pieces(model: LeanModel, start: int, end: int, seed: int, longest: int) -> torch.Tensor:
    """The logits of positions `start` to `end`, fed in pieces of random widths."""
    dice = random.Random(seed)
    ends = [start]
    while ends[-1] < end:
        ends.append(min(end, ends[-1] + dice.randint(1, longest)))
    return torch.cat([model.forward(Tokens(IDS[:stop]), stop - begin) for begin, stop in pairwise(ends)])


def divergence(exact: torch.Tensor, other: torch.Tensor) -> float:
    """Mean KL in nats."""
    exact, other = exact.log_softmax(-1), other.log_softmax(-1)
    return (exact.exp() * (exact - other)).sum(-1).mean().item()


def test_the_second_start_reads_what_the_first_packed(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, told = opened(llama)
    assert doing(told) == {"packing"}
    monkeypatch.setattr(pack, "quantize", None)
    second, told = opened(llama)
    assert doing(told) == {"loading"}
    assert torch.equal(first.forward(Tokens(IDS[:40]), 40), second.forward(Tokens(IDS[:40]), 40))


def test_changed_weights_are_packed_again_and_the_old_ones_dropped(tmp_path: Path, shelf: Path) -> None:
    for kind in ("llama", "llama, tied"):
        folder = save(tmp_path / "model", **MODELS[kind])
        model, told = opened(folder)
        assert doing(told) == {"packing"}
        exact = load(folder).forward(Tokens(IDS[:40]), 40)
        assert divergence(exact, model.forward(Tokens(IDS[:40]), 40)) < 0.01
    assert len(list(shelf.iterdir())) == 2


@pytest.mark.parametrize("harm", ["cut short", "no index", "another layout"])
def test_an_entry_that_does_not_serve_is_made_again(
    llama: Path, shelf: Path, harm: str, kernel: int8.Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = opened(llama)[0].forward(Tokens(IDS[:40]), 40)
    index, data = next(shelf.glob("*.json")), next(shelf.glob("*.bin"))
    if harm == "cut short":
        data.write_bytes(data.read_bytes()[:-1])
    elif harm == "no index":
        index.write_text("{")
    else:
        layout = kernel.layout
        monkeypatch.setattr(kernel, "layout", lambda matrix: layout(matrix) + "00")
    for _ in range(2):
        model, _ = opened(llama)
        assert torch.equal(model.forward(Tokens(IDS[:40]), 40), expected)
    monkeypatch.setattr(pack, "quantize", None)
    assert doing(opened(llama)[1]) == {"loading"}


def test_a_full_disk_costs_a_notice(llama: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, mode: str) -> Any:
        file = io.FileIO(descriptor, mode)

        class Full(io.BufferedWriter):
            def write(self, data: Any) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

        return Full(file)

    monkeypatch.setattr(pack_file, "open", full, raising=False)
    model, told = opened(llama)
    assert [event.text for event in told if isinstance(event, Notice)] == [
        "the packed weights could not be saved (No space left on device): the next start packs again"
    ]
    assert list(shelf.iterdir()) == []
    assert model.forward(Tokens(IDS[:4]), 1).isfinite().all()


def test_an_interrupted_start_leaves_nothing_behind(llama: Path, shelf: Path) -> None:
    checkpoint = Checkpoint(ModelRef(str(llama)), llama)
    architecture = read_checkpoint_architecture(checkpoint)
    assert not isinstance(architecture, str)
    loading = load_decoder(checkpoint, architecture, Placement(CPU, torch.float32, int8=True), 512)
    next(loading)
    loading.close()
    assert list(shelf.iterdir()) == []


def test_processors_that_share_a_home_keep_their_own_entries(
    llama: Path, shelf: Path, kernel: int8.Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_file, "processor_name", lambda: "one")
    opened(llama)
    other = type(kernel)()
    monkeypatch.setattr(type(kernel), "form", "another form")
    monkeypatch.setattr(pack_file, "processor_name", lambda: "other")
    monkeypatch.setattr("specgen.nn.lean.load.choose_kernel", lambda: other)
    assert doing(opened(llama)[1]) == {"packing"}
    assert len(list(shelf.glob("*.bin"))) == 2
    assert doing(opened(llama)[1]) == {"loading"}
    assert len(list(shelf.glob("*.bin"))) == 2


def test_a_new_form_replaces_the_old_one_of_the_same_processor(
    llama: Path, shelf: Path, kernel: int8.Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(llama)
    monkeypatch.setattr(type(kernel), "form", "another form")
    assert doing(opened(llama)[1]) == {"packing"}
    assert len(list(shelf.glob("*.bin"))) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_start_leaves_nothing_behind_the_next(llama: Path, shelf: Path) -> None:
    weights = [llama / "model.safetensors"]
    writer = pack_file.PackedWriter(weights, "living")
    if not (child := os.fork()):
        pack_file.PackedWriter(weights, "killed").add("layer", "", memoryview(bytes(1 << 20)))
        os._exit(1)
    os.waitpid(child, 0)
    assert len(list(shelf.iterdir())) == 2
    orphan = shelf / "0.bin"
    orphan.write_bytes(b"x")
    os.utime(orphan, (0, 0))
    opened(llama)
    assert len(list(shelf.glob("*.part"))) == 1, "that of the living writer"
    assert not orphan.exists()
    writer.add("layer", "", memoryview(b"12"))
    writer.finish()
    assert writer.failure is None
    found = pack_file.find(weights, "living")
    assert found is not None
    found.close()


def test_weights_that_are_gone_take_their_entry_with_them(tmp_path: Path, llama: Path, shelf: Path) -> None:
    opened(llama)
    gone = save(tmp_path / "gone", **MODELS["llama"])
    opened(gone)
    size = sum(path.stat().st_size for path in shelf.iterdir())
    assert weight_cache.prune() == 0
    (gone / "model.safetensors").unlink()
    assert 0 < weight_cache.prune() < size
    assert len(list(shelf.iterdir())) == 2


LARGE = 1 << 30


@pytest.mark.parametrize(
    ("quant", "dtype", "size", "lean", "expected"),
    [
        (Quant.AUTO, Dtype.AUTO, LARGE, True, "int8"),
        (Quant.AUTO, Dtype.AUTO, 1000, True, "float32"),
        (Quant.AUTO, Dtype.AUTO, LARGE, False, "float32"),
        (Quant.AUTO, Dtype.FLOAT32, LARGE, True, "float32"),
        (Quant.INT8, Dtype.AUTO, 1000, True, "int8"),
        (Quant.NONE, Dtype.FLOAT32, LARGE, True, "float32"),
        (Quant.NONE, Dtype.AUTO, LARGE, False, "float32"),
    ],
)
def test_what_runs_in_int8(quant: Quant, dtype: Dtype, size: int, lean: bool, expected: str) -> None:
    placement = place(choose_device(Device.CPU), EngineOptions(quant=quant, dtype=dtype), size, lean=lean)
    assert placement.int8 == (expected == "int8")
    assert placement.dtype == torch.float32


@pytest.mark.parametrize(("fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_without_int8_the_fastest_dtype_is_taken(
    fast: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specgen.nn.device.packs", lambda _: fast)
    assert place(CPU, EngineOptions(quant=Quant.NONE), LARGE, lean=True).dtype == dtype


def test_int8_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = EngineOptions(quant=Quant.INT8)
    with pytest.raises(UsageError, match="transformers"):
        place(CPU, asked, LARGE, lean=False)
    with pytest.raises(UsageError, match="cuda"):
        place(torch.device("cuda"), asked, LARGE, lean=True)
    with pytest.raises(UsageError, match="bfloat16"):
        place(CPU, EngineOptions(quant=Quant.INT8, dtype=Dtype.BFLOAT16), LARGE, lean=True)
    monkeypatch.setattr("specgen.nn.device.choose_kernel", lambda: None)
    with pytest.raises(DeviceUnavailable, match="int8"):
        place(CPU, asked, LARGE, lean=True)
    assert not place(CPU, EngineOptions(), LARGE, lean=True).int8
