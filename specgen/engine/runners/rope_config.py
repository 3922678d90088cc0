"""Reading rotary positions from a config: today's `rope_parameters`, or the older `rope_theta` and `rope_scaling`."""

import math
from collections.abc import Mapping
from typing import Any

from specgen.engine.runners.families import Family
from specgen.engine.runners.rotary import Rope

_KEYS: Mapping[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}),
    "yarn": frozenset(
        {
            "factor",
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        }
    ),
}
_ALWAYS = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})


class Unsupported(Exception):
    """Why the lean decoder does not run a model."""


def whole_number(values: Mapping[str, Any], key: str) -> int:
    """A positive int. Raises Unsupported."""
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Unsupported(f"{key} {value!r}")
    return value


def read_ropes(
    config: Mapping[str, Any], options: Mapping[str, Any], family: Family, head_size: int
) -> tuple[Rope, Rope]:
    """The positions of layers that see everything, and of those that see a window. Raises Unsupported."""
    length = whole_number(config, "max_position_embeddings")
    parameters = config.get("rope_parameters") or {}
    if "rope_local_base_freq" not in family.reads:
        flat = dict(config.get("rope_scaling") or parameters)
        flat.setdefault("rope_theta", options["rope_theta"])
        flat.setdefault("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
        if "original_max_position_embeddings" in config and _kind(flat) != "default":
            raise Unsupported("original_max_position_embeddings outside of rope_parameters")
        rope = _read(flat, family, head_size, length)
        return rope, rope
    if not parameters.keys() <= {"full_attention", "sliding_attention"}:
        raise Unsupported(f"rope_parameters {parameters!r}")
    full = dict(parameters.get("full_attention") or {}) | dict(config.get("rope_scaling") or {})
    sliding = dict(parameters.get("sliding_attention") or {})
    full.setdefault("rope_theta", options["rope_theta"])
    sliding.setdefault("rope_theta", options["rope_local_base_freq"])
    return _read(full, family, head_size, length), _read(sliding, family, head_size, length)


def _kind(parameters: Mapping[str, Any]) -> Any:
    return parameters.get("rope_type", parameters.get("type", "default"))


def _read(parameters: Mapping[str, Any], family: Family, head_size: int, length: int) -> Rope:
    kind = _kind(parameters)
    if kind not in family.rope_types:
        raise Unsupported(f"the rope type {kind!r}")
    if unknown := parameters.keys() - _ALWAYS - _KEYS[kind]:
        raise Unsupported(f"{min(unknown)} for the rope type {kind}")
    portion = _positive(parameters, "partial_rotary_factor", 1.0)
    if portion != 1.0 and "partial_rotary_factor" not in family.reads:
        raise Unsupported(f"partial_rotary_factor {portion}")
    size = int(head_size * portion)
    if size % 2 or not 0 < size <= head_size:
        raise Unsupported(f"{size} turned dimensions of {head_size}")
    theta = _positive(parameters, "rope_theta")
    if kind == "default":
        return Rope(theta, size)
    if kind == "linear":
        return Rope(theta, size, kind, _positive(parameters, "factor"))
    original = whole_number({"original_max_position_embeddings": length} | dict(parameters), _ORIGINAL)
    if kind == "llama3":
        low, high = _positive(parameters, "low_freq_factor"), _positive(parameters, "high_freq_factor")
        if low >= high:
            raise Unsupported(f"low_freq_factor {low} and high_freq_factor {high}")
        return Rope(
            theta, size, kind, _positive(parameters, "factor"), original, low_freq_factor=low, high_freq_factor=high
        )
    return _yarn(parameters, theta, size, original, length)


_ORIGINAL = "original_max_position_embeddings"


def _yarn(parameters: Mapping[str, Any], theta: float, size: int, original: int, length: int) -> Rope:
    factor = _positive(parameters, "factor", length / original)
    scales = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if all(scales):
        mscale, all_dim = _positive(parameters, "mscale"), _positive(parameters, "mscale_all_dim")
        attention = _magnitude(factor, mscale) / _magnitude(factor, all_dim)
    else:
        attention = _magnitude(factor, 1.0)
    return Rope(
        theta,
        size,
        "yarn",
        factor,
        original,
        beta_fast=_positive(parameters, "beta_fast", 32.0),
        beta_slow=_positive(parameters, "beta_slow", 1.0),
        truncate=bool(parameters.get("truncate", True)),
        attention_factor=_positive(parameters, "attention_factor", attention),
    )


def _magnitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _positive(values: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = values.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise Unsupported(f"{key} {value!r}")
    return float(value)
