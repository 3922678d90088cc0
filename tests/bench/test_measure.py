"""Medians of interleaved calls."""

from specgen.bench.measure import medians


def test_calls_are_made_in_turn_and_the_first_of_each_does_not_count() -> None:
    order: list[str] = []
    seconds = {"a": iter([99.0, 1.0, 5.0, 2.0]), "b": iter([99.0, 7.0, 7.0, 8.0])}

    def call(name: str) -> float:
        order.append(name)
        return next(seconds[name])

    assert medians({"a": lambda: call("a"), "b": lambda: call("b")}, 3) == {"a": 2.0, "b": 7.0}
    assert order == ["a", "b"] * 4
