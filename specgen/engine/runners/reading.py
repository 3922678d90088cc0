"""Values of a config.json, each read strictly: what is not plainly understood is not run by the lean decoder."""

from collections.abc import Mapping
from typing import Any


class Unsupported(Exception):
    """Why the lean decoder does not run a model."""


def whole_number(values: Mapping[str, Any], key: str) -> int:
    """A positive int. Raises Unsupported."""
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise Unsupported(f"{key} {value!r}")
    return value


def positive(values: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A number above zero; `default` where there is none, or null. Raises Unsupported."""
    value = values.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise Unsupported(f"{key} {value!r}")
    return float(value)


def flag(values: Mapping[str, Any], key: str) -> bool:
    """True or false. Raises Unsupported."""
    value = values.get(key)
    if not isinstance(value, bool):
        raise Unsupported(f"{key} {value!r}")
    return value
