"""Tokens compared to plain lists after every operation."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from specgen.core.tokens import Tokens

IDS = st.lists(st.integers(0, 2), max_size=4)  # three ids only: prefixes then agree often


class Views(RuleBasedStateMachine):
    """Every view so far with its list of ids."""

    def __init__(self) -> None:
        super().__init__()
        self.views: list[tuple[Tokens, list[int]]] = [(Tokens(), [])]

    def pick(self, number: int) -> tuple[Tokens, list[int]]:
        return self.views[number % len(self.views)]

    @rule(ids=IDS)
    def start(self, ids: list[int]) -> None:
        self.views.append((Tokens(ids), list(ids)))

    @rule(number=st.integers(0), ids=IDS)
    def grow(self, number: int, ids: list[int]) -> None:
        view, known = self.pick(number)
        self.views.append((view.grow(ids), known + ids))

    @rule(number=st.integers(0), ids=IDS)
    def add(self, number: int, ids: list[int]) -> None:
        view, known = self.pick(number)
        self.views.append((view + ids, known + ids))

    @rule(number=st.integers(0), length=st.integers(0, 12))
    def prefix(self, number: int, length: int) -> None:
        view, known = self.pick(number)
        self.views.append((view.prefix(length), known[:length]))

    @rule(one=st.integers(0), other=st.integers(0))
    def common_prefix(self, one: int, other: int) -> None:
        (view, known), (view_2, known_2) = self.pick(one), self.pick(other)
        expected = 0
        while expected < min(len(known), len(known_2)) and known[expected] == known_2[expected]:
            expected += 1
        assert view.common_prefix(view_2) == view_2.common_prefix(view) == expected

    @rule(number=st.integers(0), start=st.integers(0, 12))
    def ids(self, number: int, start: int) -> None:
        view, known = self.pick(number)
        assert view.ids(start) == known[start:]

    @invariant()
    def every_view_is_what_it_was(self) -> None:
        for view, known in self.views:
            assert view.ids() == list(view) == known
            assert len(view) == len(known)


TestViews = Views.TestCase


@given(IDS, IDS, IDS)
def test_growing_an_older_view_leaves_the_newer_one_alone(
    prompt: list[int], first: list[int], second: list[int]
) -> None:
    context = Tokens(prompt)
    settled = context.grow(first)
    again = context.grow(second)
    assert settled.ids() == prompt + first
    assert again.ids() == prompt + second


def test_the_caller_keeps_its_list() -> None:
    ids = [1, 2]
    context = Tokens(ids)
    context.grow([3])
    ids.append(4)
    assert context.ids() == [1, 2]


def test_a_returned_list_is_the_callers_own() -> None:
    context = Tokens([1, 2])
    context.ids().append(3)
    assert context.ids() == [1, 2]


def test_contexts_of_one_log_share_it() -> None:
    """A call costs its new tokens, not the conversation: nothing before the branch is compared."""

    class Counted(int):
        compared = 0

        def __ne__(self, other: object) -> bool:
            Counted.compared += 1
            return int.__ne__(self, other)  # type: ignore[arg-type]

        __hash__ = int.__hash__

    context = Tokens([Counted(i) for i in range(1000)])
    settled = context.grow([Counted(1000)])
    branch = (Counted(1000), Counted(7))
    assert (context.prefix(1000) + branch).common_prefix(settled) == 1001
    assert settled.common_prefix(context) == 1000
    assert Counted.compared <= 2
