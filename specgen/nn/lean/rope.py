"""Rotary positions: parameters from a config, and the rotation of queries and keys.

A config has `rope_parameters`, or the older `rope_theta` and `rope_scaling`. The formulas are those of transformers'
modeling_rope_utils: RoFormer (Su et al. 2021), linear scaling, Llama 3.1, and YaRN (Peng et al. 2023).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from specgen.nn.lean.families import Family
from specgen.nn.lean.read_config import Unsupported, flag, positive, table, whole_number

_ORIGINAL = "original_max_position_embeddings"
_ALWAYS = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})
_KEYS: Mapping[str, frozenset[str]] = {
    "default": _ALWAYS,
    "linear": _ALWAYS | {"factor"},
    "llama3": _ALWAYS | {"factor", _ORIGINAL, "low_freq_factor", "high_freq_factor"},
    "yarn": _ALWAYS
    | {"factor", _ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
}


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotates the first `size` dimensions of a head in pairs.

    The first pair turns by 1 radian a position, the last by about 1/`theta`. The other fields belong to long-context
    variants: they stretch a context of `original_length` tokens by `factor`, and multiply the result by `magnitude`.
    """

    theta: float
    size: int
    kind: str = "default"
    factor: float = 1.0
    original_length: int = 0
    low_freq_factor: float = 0.0
    high_freq_factor: float = 0.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    magnitude: float = 1.0

    def frequencies(self) -> torch.Tensor:
        """float32 [size / 2]: radians for each position."""
        powers = self.theta ** (torch.arange(0, self.size, 2, dtype=torch.float) / self.size)
        match self.kind:
            case "linear":
                return 1.0 / powers / self.factor
            case "llama3":
                return self._llama3(1.0 / powers)
            case "yarn":
                return self._yarn(powers)
        return 1.0 / powers

    def _llama3(self, frequencies: torch.Tensor) -> torch.Tensor:
        """Divides slow frequencies by `factor` and keeps fast ones, with a linear ramp between."""
        cycles = self.original_length * frequencies / (2 * math.pi)
        kept = ((cycles - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
        return (1 - kept) * frequencies / self.factor + kept * frequencies

    def _yarn(self, powers: torch.Tensor) -> torch.Tensor:
        """Like Llama 3.1, with the ramp over the indices of the pairs instead of their frequencies."""
        low, high = self._pair_with_cycles(self.beta_fast), self._pair_with_cycles(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.size - 1)
        if low == high:
            high += 0.001
        stretched = ((torch.arange(self.size // 2, dtype=torch.float) - low) / (high - low)).clamp(0, 1)
        return stretched / (self.factor * powers) + (1 - stretched) / powers

    def _pair_with_cycles(self, cycles: float) -> float:
        """The fractional index of the pair that makes `cycles` full turns over the original context."""
        return self.size * math.log(self.original_length / (cycles * 2 * math.pi)) / (2 * math.log(self.theta))


def read_ropes(
    config: Mapping[str, Any], options: Mapping[str, Any], family: Family, head_size: int
) -> tuple[Rope, Rope]:
    """The positions of layers without a window, and of layers with one. Raises Unsupported."""
    length = whole_number(config, "max_position_embeddings")
    parameters, scaling = table(config, "rope_parameters"), table(config, "rope_scaling")
    if "rope_local_base_freq" not in family.reads:
        defaults = {key: config[key] for key in ("rope_theta", "partial_rotary_factor") if key in config}
        rope = _read(
            {"rope_theta": options["rope_theta"]} | defaults | (scaling or parameters), family, head_size, length
        )
        if _ORIGINAL in config and rope.kind != "default":
            raise Unsupported(f"{_ORIGINAL} outside of rope_parameters")
        return rope, rope
    if not parameters.keys() <= {"full_attention", "sliding_attention"}:
        raise Unsupported(f"rope_parameters {parameters!r}")
    full = {"rope_theta": options["rope_theta"]} | table(parameters, "full_attention") | scaling
    sliding = {"rope_theta": options["rope_local_base_freq"]} | table(parameters, "sliding_attention")
    return _read(full, family, head_size, length), _read(sliding, family, head_size, length)


def _read(parameters: Mapping[str, Any], family: Family, head_size: int, length: int) -> Rope:
    """Read one set of parameters. `length` is the default of the original context length."""
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in family.rope_types:
        raise Unsupported(f"the rope type {kind!r}")
    if unknown := parameters.keys() - _KEYS[kind]:
        raise Unsupported(f"{min(unknown)} for the rope type {kind}")
    portion = positive(parameters, "partial_rotary_factor", 1.0)
    if portion != 1.0 and "partial_rotary_factor" not in family.reads:
        raise Unsupported(f"partial_rotary_factor {portion}")
    theta, size = positive(parameters, "rope_theta"), int(head_size * portion)
    if size % 2 or not 0 < size <= head_size:
        raise Unsupported(f"{size} rotary dimensions of {head_size}")
    original = whole_number({_ORIGINAL: length} | dict(parameters), _ORIGINAL)
    match kind:
        case "linear":
            return Rope(theta, size, kind, positive(parameters, "factor"))
        case "llama3":
            low, high = positive(parameters, "low_freq_factor"), positive(parameters, "high_freq_factor")
            if low >= high:
                raise Unsupported(f"low_freq_factor {low} and high_freq_factor {high}")
            return Rope(theta, size, kind, positive(parameters, "factor"), original, low, high)
        case "yarn":
            return _read_yarn(parameters, theta, size, original, length)
    return Rope(theta, size)


def _read_yarn(parameters: Mapping[str, Any], theta: float, size: int, original: int, length: int) -> Rope:
    factor = positive(parameters, "factor", length / original)
    magnitude = _magnitude(factor, 1.0)
    if parameters.get("mscale") and parameters.get("mscale_all_dim"):
        scales = positive(parameters, "mscale"), positive(parameters, "mscale_all_dim")
        magnitude = _magnitude(factor, scales[0]) / _magnitude(factor, scales[1])
    return Rope(
        theta,
        size,
        "yarn",
        factor,
        original,
        beta_fast=positive(parameters, "beta_fast", 32.0),
        beta_slow=positive(parameters, "beta_slow", 1.0),
        truncate=flag({"truncate": True} | dict(parameters), "truncate"),
        magnitude=positive(parameters, "attention_factor", magnitude),
    )


def _magnitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


class Rotation:
    """The rotations of all positions, computed once and kept on one device."""

    def __init__(self, rope: Rope, device: torch.device) -> None:
        self._frequencies = rope.frequencies()
        self._magnitude = rope.magnitude
        self._table = torch.empty(0, 1, rope.size // 2, dtype=torch.complex64, device=device)

    def at(self, start: int, end: int) -> torch.Tensor:
        """complex64 [positions, 1, size / 2]: the rotations of positions `start` to `end`."""
        if end > len(self._table):
            self.reserve(max(end, 2 * len(self._table)))
        return self._table[start:end]

    def reserve(self, end: int) -> None:
        """Compute the rotations of positions up to `end` that are not known."""
        positions = torch.arange(len(self._table), end, dtype=torch.float)
        angles = torch.outer(positions, self._frequencies)
        rotations = torch.complex(angles.cos(), angles.sin()) * self._magnitude
        self._table = torch.cat([self._table, rotations[:, None].to(self._table.device)])

    @property
    def table(self) -> torch.Tensor:
        """Cosine and sine of every pair at the positions known so far: float32 [positions, size / 2, 2]."""
        return torch.view_as_real(self._table)[:, 0]

    def of(self, positions: torch.Tensor) -> torch.Tensor:
        """The rotations of `positions`, a tensor on the device. They must be known."""
        # As real numbers, because some devices cannot gather complex ones.
        return torch.view_as_complex(torch.view_as_real(self._table).index_select(0, positions))


def rotate(heads: torch.Tensor, rotation: torch.Tensor) -> None:
    """Rotate the first dimensions of `heads` [rows, heads, head_size] in place, in float32."""
    pairs = heads[..., : 2 * rotation.shape[-1]].view(*heads.shape[:2], -1, 2)
    if heads.dtype == torch.float32:
        torch.view_as_complex(pairs).mul_(rotation)
    else:
        pairs.copy_(torch.view_as_real(torch.view_as_complex(pairs.float()).mul_(rotation)))


def interleave(rows: torch.Tensor, head_size: int, size: int) -> torch.Tensor:
    """Reorder the rows of a query or key projection, so that rotated pairs are neighbours.

    Checkpoints store the pair (i, i + size / 2) of a head apart. Two neighbours are one complex number, and a rotation
    is one multiplication. Queries and keys are reordered alike, so their products stay the same.
    """
    heads = rows.view(-1, head_size, *rows.shape[1:])
    pairs = heads[:, :size].view(len(heads), 2, size // 2, *rows.shape[1:])
    return torch.cat([pairs.transpose(1, 2).reshape(len(heads), size, *rows.shape[1:]), heads[:, size:]], 1).view_as(
        rows
    )
