"""Draft lengths compared after the fact."""

from types import SimpleNamespace
from typing import Any

import pytest

from specgen.bench.hindsight import hindsight
from tests.bench.made_up import measurement, run


def contender(name: str, length: int | None) -> Any:
    return SimpleNamespace(name=name, draft_length=length)


def test_auto_is_held_against_the_best_fixed_length_of_each_category() -> None:
    names = {"model k=auto": None, "model k=1": 1, "model k=2": 2}
    speeds = {"chat": (18.0, 20.0, 10.0), "code": (40.0, 30.0, 50.0)}
    runs = [
        run(name, category, measurement(speed), category=category)
        for category, three in speeds.items()
        for name, speed in zip(names, three, strict=True)
    ]
    three = [contender(name, length) for name, length in names.items()]
    table = hindsight([contender("plain", None), *three], runs)
    assert list(table) == ["model"]
    assert (table["model"]["chat"]["best_k"], table["model"]["code"]["best_k"]) == (1, 2)
    assert table["model"]["chat"]["share"] == pytest.approx(0.9)
    assert table["model"]["code"]["share"] == pytest.approx(0.8)
    assert table["model"]["overall"]["best_k"] == 2
    assert table["model"]["code"]["tokens_per_second"] == pytest.approx({"auto": 40, "1": 30, "2": 50})
