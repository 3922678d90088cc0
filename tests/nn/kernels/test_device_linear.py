"""Weights of 4 and 8 bits on an accelerator: what is lost, and what torch's products are given."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from specgen.core.errors import DeviceUnavailable, UsageError
from specgen.core.types import Dtype, EngineOptions, Quant
from specgen.nn.device import Placement, place
from specgen.nn.kernels import support
from specgen.nn.kernels.device_linear import DeviceLinears, int4_linear, int8_linear, round_int4

CUDA = torch.device("cuda")


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(48, 192, generator=torch.Generator().manual_seed(1)) * 0.02 + 0.005


def dequantized(levels: torch.Tensor, scale: torch.Tensor, middle: torch.Tensor) -> torch.Tensor:
    centred = levels.view(*scale.shape, 32).float() - 8
    return (centred * scale[..., None] + middle[..., None]).view(levels.shape)


def test_groups_are_rounded_by_least_squares(weight: torch.Tensor) -> None:
    """Better than levels that spread evenly from the least weight to the largest."""
    groups = weight.view(48, 6, 32)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    step = (high - low) / 15
    even = ((groups - low) / step).round() * step + low
    error = (dequantized(*round_int4([weight])) - weight).square().mean()
    assert error < 0.97 * (even - groups).square().mean()


def test_weights_on_a_grid_lose_the_rounding_of_their_scale_only() -> None:
    levels = torch.randint(0, 16, (8, 64), generator=torch.Generator().manual_seed(1))
    levels[:, ::32], levels[:, 1::32] = 0, 15
    exact = (levels - 8) * 0.0625 + 0.25
    found, scale, middle = round_int4([exact])
    assert torch.equal(found.long(), levels)
    assert torch.equal(dequantized(found, scale, middle), exact)


def test_a_constant_group_and_several_pieces(weight: torch.Tensor) -> None:
    weight[3, :32], weight[5, 32:64] = 0.0, 0.5
    whole = round_int4([weight])
    assert dequantized(*whole)[3, :32].abs().max() == 0
    assert torch.equal(dequantized(*whole)[5, 32:64], torch.full((32,), 0.5))
    assert all(map(torch.equal, round_int4(weight.split(5)), whole))


def test_torch_is_given_its_own_layout(weight: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its kernels for CUDA document it: an even input in the high four bits; scale and middle side by side."""
    tiles: list[int] = []

    def pack(pairs: torch.Tensor, inner: int) -> torch.Tensor:
        assert pairs.dtype == torch.uint8
        tiles.append(inner)
        return pairs

    def multiply(rows: torch.Tensor, pairs: torch.Tensor, group: int, both: torch.Tensor) -> torch.Tensor:
        assert both.dtype == torch.bfloat16
        levels = torch.stack([pairs >> 4, pairs & 15], -1).view(len(pairs), -1)
        scale, middle = both.float().permute(2, 1, 0)
        assert group == 32
        return (rows.float() @ dequantized(levels, scale, middle).T).bfloat16()

    monkeypatch.setattr(torch.ops.aten, "_convert_weight_to_int4pack", pack)
    monkeypatch.setattr(torch.ops.aten, "_weight_int4pack_mm", SimpleNamespace(default=multiply))
    bias = torch.randn(48).bfloat16()
    rows = torch.randn(5, 192).bfloat16()
    levels, scale, middle = round_int4([weight])
    found = int4_linear(levels, scale, middle, bias)(rows)
    expected = rows.float() @ dequantized(levels, scale, middle).T + bias.float()
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)
    assert tiles == [4], "12 tiles of 16 inputs"


def test_a_product_of_8_bits_is_near_that_of_the_weights(weight: torch.Tensor) -> None:
    rows, bias = torch.randn(5, 192).bfloat16(), torch.randn(48).bfloat16()
    found = int8_linear([weight.bfloat16()], 48, bias)(rows)
    assert found.dtype == torch.bfloat16
    expected = rows.float() @ weight.bfloat16().float().T + bias.float()
    torch.testing.assert_close(found.float(), expected, atol=0.03, rtol=0.02)


@pytest.mark.parametrize("quant", [Quant.INT4, Quant.INT8])
@pytest.mark.parametrize("shape", [(64, 96), (64, 80), (60, 96)])
def test_every_shape_has_a_product(shape: tuple[int, int], quant: Quant) -> None:
    """On tensors without numbers. What does not fit the tiles of 4 bits has 8."""
    with FakeTensorMode():
        linears = DeviceLinears(Placement(torch.device("cpu"), torch.bfloat16, quant))
        rows = torch.empty(3, shape[1], dtype=torch.bfloat16)
        bias = torch.zeros(shape[0], dtype=torch.bfloat16)
        for name in ("head", "mlp.down"):
            weight = torch.zeros(shape, dtype=torch.bfloat16)
            product = linears.make(name, lambda weight=weight: [weight], bias)(rows)
            assert product.shape == (3, shape[0])
            assert product.dtype == torch.bfloat16


def test_where_quantized_weights_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "find_device_fault", lambda *_: None)
    for quant in (Quant.INT4, Quant.INT8):
        placement = place(CUDA, EngineOptions(quant=quant), 1 << 30, lean=True)
        assert placement == Placement(CUDA, torch.bfloat16, quant)
        assert not placement.quantized, "no compiled kernels"
        with pytest.raises(UsageError, match="computes the rest in bfloat16"):
            place(CUDA, EngineOptions(quant=quant, dtype=Dtype.FLOAT32), 1 << 30, lean=True)
        with pytest.raises(UsageError, match="transformers"):
            place(CUDA, EngineOptions(quant=quant), 1 << 30, lean=False)
    monkeypatch.setattr(support, "find_device_fault", lambda *_: "the card is too old")
    with pytest.raises(DeviceUnavailable, match="int4 does not run here: the card is too old"):
        place(CUDA, EngineOptions(quant=Quant.INT4), 1 << 30, lean=True)


def test_what_this_torch_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    known: Any = {("aten::_weight_int8pack_mm", "CUDA"), ("aten::_weight_int4pack_mm", "CUDA")}
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda *name: name in known)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert "has no _convert_weight_to_int4pack for cuda" in str(support.find_device_fault(CUDA, Quant.INT4))
    assert support.find_device_fault(CUDA, Quant.INT8) == "the card has no products in bfloat16"
