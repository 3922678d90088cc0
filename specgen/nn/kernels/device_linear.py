"""Linear layers with weights of 4 or 8 bits on an accelerator, by torch's own products.

4 bits: weight = (level - 8) * scale + middle, for groups of 32 inputs. torch keeps scale and middle in bfloat16. So a
group loses their rounding: at most 1/512 of its middle, and of its distance from the middle.
8 bits: one scale for each output.
"""

from collections.abc import Iterable

import torch

from specgen.core.types import Quant
from specgen.nn.device import Placement
from specgen.nn.kernels.grouped import GROUP
from specgen.nn.kernels.linear import ROWS, Linear
from specgen.nn.kernels.linears import Matrices

# torch packs 8 outputs together, and 16 inputs of each of 2, 4 or 8 tiles.
_OUTPUTS, _INPUTS = 8, 16
# Rounds of least squares. Each fits scale and middle to the levels, and then rounds again.
_FITS = 2
# Weights that are rounded at a time, which bounds their float32 copies.
PIECE = 1 << 22


class DeviceLinears:
    """Layers with quantized weights on an accelerator. `placement.quant` is int4 or int8; the head has 8 bits."""

    rows = ROWS

    def __init__(self, placement: Placement) -> None:
        self._placement = placement

    def make(self, name: str, weights: Matrices, bias: torch.Tensor | None) -> Linear:
        parts = weights()
        pieces = (
            piece.to(self._placement.device, self._placement.dtype)
            for part in parts
            for piece in torch.split(part, max(1, PIECE // part.shape[1]))
        )
        shape = sum(map(len, parts)), parts[0].shape[1]
        if self._placement.quant is Quant.INT4 and name != "head" and fits_int4(*shape):
            return int4_linear(*round_int4(pieces), bias)
        return int8_linear(pieces, shape[0], bias)


def fits_int4(outputs: int, inputs: int) -> bool:
    """Whether torch's product of 4 bits takes a matrix of this shape."""
    return outputs % _OUTPUTS == 0 and inputs % (2 * _INPUTS) == 0


def round_int4(pieces: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows of a matrix, piece by piece, rounded by least squares.

    Levels uint8 [out, in] below 16, scales and middles float32 [out, groups]. The first levels spread evenly from the
    least weight of a group to its largest.
    """
    rounded = [_round_int4(piece) for piece in pieces]
    levels, scale, middle = (torch.cat(parts) for parts in zip(*rounded, strict=True))
    return levels, scale, middle


def _round_int4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    groups = weight.float().view(len(weight), -1, GROUP)
    low, high = groups.amin(-1), groups.amax(-1)
    scale = ((high - low) / 15).clamp_(min=torch.finfo(torch.bfloat16).tiny)
    middle = low + 8 * scale
    for _ in range(_FITS):
        centred = _rounded(groups, scale, middle) - 8
        mean, average = centred.mean(-1), groups.mean(-1)
        spread = centred - mean[..., None]
        fitted = (spread * groups).sum(-1) / spread.square().sum(-1).clamp_(min=1)
        scale = torch.where(fitted > 0, fitted, scale)
        middle = average - scale * mean
    scale, middle = scale.bfloat16().float(), middle.bfloat16().float()
    return _rounded(groups, scale, middle).to(torch.uint8).view_as(weight), scale, middle


def _rounded(groups: torch.Tensor, scale: torch.Tensor, middle: torch.Tensor) -> torch.Tensor:
    """The levels of weights [out, groups, GROUP], as floats from 0 to 15."""
    return ((groups - middle[..., None]) / scale[..., None]).round_().add_(8).clamp_(0, 15)


def int4_linear(levels: torch.Tensor, scale: torch.Tensor, middle: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    """bfloat16 [rows, in] -> [rows, out], from what `round_int4` returns, on its device."""
    tiles = next(tiles for tiles in (8, 4, 2) if levels.shape[1] % (tiles * _INPUTS) == 0)
    pairs = levels[:, ::2] << 4 | levels[:, 1::2]
    packed = torch.ops.aten._convert_weight_to_int4pack(pairs, tiles)
    both = torch.stack([scale, middle], -1).transpose(0, 1).to(torch.bfloat16).contiguous()  # [groups, out, 2]
    multiply = torch.ops.aten._weight_int4pack_mm.default

    def linear(rows: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = multiply(rows.contiguous(), packed, GROUP, both)
        return product if bias is None else product.add_(bias)

    return linear


def int8_linear(pieces: Iterable[torch.Tensor], outputs: int, bias: torch.Tensor | None) -> Linear:
    """[rows, in] -> [rows, out] in the dtype of the rows, from rows of a matrix, piece by piece.

    torch's product on CUDA takes float32.
    """
    start = 0
    for piece in pieces:
        if start == 0:
            levels = torch.empty(outputs, piece.shape[1], dtype=torch.int8, device=piece.device)
            scale = torch.empty(outputs, device=piece.device)
        end = start + len(piece)
        weight = piece.float()
        scale[start:end] = (weight.abs().amax(-1) / 127).clamp_(min=torch.finfo(torch.float32).tiny)
        levels[start:end] = weight.div_(scale[start:end, None]).round_()
        start = end
    multiply = torch.ops.aten._weight_int8pack_mm.default

    def linear(rows: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = multiply(rows.float().contiguous(), levels, scale)
        product = product if bias is None else product.add_(bias)
        return product.to(rows.dtype)

    return linear
