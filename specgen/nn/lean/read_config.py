"""Strict readers for the values of a config.json: the lean decoder runs no model with a value in doubt."""

import math
from collections.abc import Mapping
from typing import Any


class Unsupported(Exception):
    """The reason why the lean decoder does not run a model."""


def whole_number(values: Mapping[str, Any], key: str) -> int:
    """A positive int. Raises Unsupported."""
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Unsupported(f"{key} {value!r}")
    return value


def positive(values: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A finite number above zero; `default` for a missing key or null. Raises Unsupported."""
    value = values.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise Unsupported(f"{key} {value!r}")
    return float(value)


def table(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """An object, empty for a missing key or null. Raises Unsupported."""
    value = values.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Unsupported(f"{key} {value!r}")
    return value


def flag(values: Mapping[str, Any], key: str) -> bool:
    """True or false. Raises Unsupported."""
    value = values.get(key)
    if not isinstance(value, bool):
        raise Unsupported(f"{key} {value!r}")
    return value
