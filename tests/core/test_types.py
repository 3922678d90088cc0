"""Value types: names of models, and ranges of sampling parameters."""

import math

import pytest

from specgen.core.errors import UsageError
from specgen.core.types import SAMPLING_RANGES, SamplingChoice

WRONG = [
    *[(name, value) for name in SAMPLING_RANGES for value in (math.inf, -math.inf, math.nan, "1", True)],
    ("temperature", -0.1),
    ("top_k", 50.5),
    ("top_p", 1.01),
    ("min_p", -0.01),
    ("repetition_penalty", 0.0),
    ("seed", -1),
    ("seed", 1 << 63),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_sampling_takes_only_numbers_in_range(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"{name} cannot be") as raised:
        SamplingChoice(**{name: value})  # type: ignore[arg-type]
    assert raised.value.hint == f"it takes {SAMPLING_RANGES[name].words}"


def test_numbers_without_loss_get_the_right_type() -> None:
    params = SamplingChoice(temperature=1, top_k=50.0, seed=(1 << 63) - 1)  # type: ignore[arg-type]
    assert (type(params.temperature), type(params.top_k), params.top_k) == (float, int, 50)
    assert params.seed == (1 << 63) - 1
    assert SamplingChoice().temperature is None
