"""Gumbel noise as a pure function of (seed, position, token id).

A counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). Each value is a hash of
its coordinates by the finalizer of splitmix64 (Steele et al. 2014). So any subset of tokens gets the same noise, in any
order, on any device.
"""

import torch

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_BITS = 53


def _mix(value: int) -> int:
    """splitmix64's finalizer on one Python integer."""
    value = (value ^ (value >> 30)) * _MIX_1 & _MASK
    value = (value ^ (value >> 27)) * _MIX_2 & _MASK
    return value ^ (value >> 31)


def _signed(value: int) -> int:
    """The int64 with the same 64 bits. Not every device has unsigned arithmetic in torch."""
    return value - (1 << 64) if value >> 63 else value


def _shift(value: torch.Tensor, bits: int) -> torch.Tensor:
    """A logical right shift of int64. The shift of torch is arithmetic: it copies the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def gumbel(seed: int, position: int, ids: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise, float32, for the token `ids` (int64, any shape) at a position of the context.

    g = -log(E) with E exponential, E = -log(1 - u). u has 53 bits, which keep its precision near 0, where the large
    values come from. u is limited to below 1, where E would be infinite.
    """
    return _noise(_key(seed, position), ids)


def gumbel_rows(seed: int, position: int, ids: torch.Tensor) -> torch.Tensor:
    """The noise of consecutive positions, float32 [rows, n], for ids int64 [rows, n]; row i is at `position + i`."""
    keys = torch.tensor([[_key(seed, position + row)] for row in range(len(ids))], pin_memory=ids.is_cuda)
    return _noise(keys.to(ids.device, non_blocking=ids.is_cuda), ids)


def _key(seed: int, position: int) -> int:
    """The part of the hash that `seed` and `position` determine, as a signed 64-bit integer."""
    return _signed(_mix((_mix(seed * _GOLDEN + 1 & _MASK) + position * _GOLDEN) & _MASK))


def _noise(key: int | torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    bits = ids * _signed(_GOLDEN) + key
    bits = (bits ^ _shift(bits, 30)) * _signed(_MIX_1)
    bits = (bits ^ _shift(bits, 27)) * _signed(_MIX_2)
    bits = _shift(bits ^ _shift(bits, 31), 64 - _BITS)
    uniform = bits.to(torch.float32).add_(0.5).mul_(2.0**-_BITS)
    uniform.clamp_(max=1.0 - 2.0**-24)
    return -torch.log(-torch.log1p(-uniform))
