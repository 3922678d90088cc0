"""Lookup in earlier answers: matches, votes, the bound, and the length of a proposal."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specgen.core.tokens import Tokens
from specgen.engine.drafters.answer_index import AnswerIndex
from specgen.engine.drafters.interface import DraftPlan
from specgen.engine.drafters.lookup import LookupDrafter
from specgen.engine.drafters.match import Match
from specgen.engine.sampling.sampler import Sampler, SamplingParams
from tests.engine.simulation import Machine, Text, flat, simulate, sloped, text

NO_END: frozenset[int] = frozenset()


def index(*answers: Sequence[int], most: int = 1000) -> AnswerIndex:
    made = AnswerIndex(most)
    made.add(np.array(answer, dtype=np.int32) for answer in answers)
    return made


def plan(limit: int, *end_ids: int) -> DraftPlan:
    return DraftPlan(limit, Sampler(SamplingParams(), 0), frozenset(end_ids))


def test_what_followed_in_an_earlier_answer_is_proposed() -> None:
    drafter = LookupDrafter(index([1, 2, 3, 4, 5, 6, 7], [8, 9]))
    proposal = drafter.propose(Tokens([0, 2, 3, 4, 5]), plan(5))
    assert (proposal.tokens, proposal.sources) == ((6, 7), ("history", "history")), "an answer ends before the next"
    assert drafter.propose(Tokens([0, 2, 3, 4, 5]), plan(5, 6)).tokens == (6,)
    assert LookupDrafter(index([2, 3, 4, 6])).propose(Tokens([2, 3, 4]), plan(5)).tokens == (), "too short a match"


def test_the_longer_match_is_proposed() -> None:
    context = [1, 2, 3, 4, 5, 9, 9, 3, 4, 5]
    assert LookupDrafter(index([8, 3, 4, 5, 6])).propose(Tokens(context), plan(2)).sources == ("lookup",) * 2
    longer = LookupDrafter(index([9, 9, 3, 4, 5, 6, 7])).propose(Tokens(context), plan(2))
    assert (longer.tokens, longer.sources) == ((6, 7), ("history",) * 2)
    assert {match.source for match in longer.matches} == {"lookup", "history"}, "both are watched"


def test_occurrences_vote_and_a_continuation_ends_where_they_disagree() -> None:
    said = [[1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 8], [1, 2, 3, 4, 9]]
    match = index(*said).match([1, 2, 3, 4], 9, NO_END)
    assert match == Match(4, "history", (5, 6, 8), (2 / 3, 1.0, 0.5)), "the latest wins among equals"
    spread = index(*([1, 2, 3, 4, 5, 20 + each, 50] for each in range(12))).match([1, 2, 3, 4], 9, NO_END)
    assert spread is not None
    assert spread.continuation == (5,)


def test_a_disabled_index_proposes_nothing() -> None:
    earlier = index([1, 2, 3, 4, 5])
    earlier.enabled = False
    assert LookupDrafter(earlier).propose(Tokens([1, 2, 3, 4]), plan(2)).tokens == ()


@given(st.lists(st.lists(st.integers(0, 3), max_size=40), max_size=30), st.integers(5, 200))
def test_the_index_is_bounded_and_finds_the_longest_match(answers: list[list[int]], most: int) -> None:
    made = AnswerIndex(most)
    for answer in answers:
        made.add([np.array(answer, dtype=np.int32)])
    assert len(made) <= most + (1 << 13) + 41
    if sum(len(answer) + 1 for answer in answers) > most:
        return
    tail = [0, 1, 2, 3, 1, 0, 2]
    lengths = [0]
    for answer in answers:
        for after in range(4, len(answer)):
            length = next((n for n in range(min(after, len(tail)), 3, -1) if answer[after - n : after] == tail[-n:]), 0)
            lengths.append(length)
    found = made.match(tail, 4, NO_END)
    assert (found.length if found else 0) == max(lengths) or sum(lengths) > 16 * 4, "the latest 16 are compared"


def test_old_answers_are_dropped_beyond_the_bound() -> None:
    made = AnswerIndex(10_000)
    for start in range(0, 40_000, 4000):
        made.add([np.arange(start, start + 4000, dtype=np.int32)])
    assert made.match(list(range(100, 110)), 4, NO_END) is None
    match = made.match(list(range(36_100, 36_110)), 4, NO_END)
    assert match is not None
    assert match.continuation == (36_110, 36_111, 36_112, 36_113)


@pytest.mark.parametrize("machine", [Machine(flat(0.1, 0.002), flat(1, 1)), Machine(sloped(0.1, 0.02), flat(1, 1))])
def test_repeated_answers_are_faster_and_new_ones_lose_little(machine: Machine) -> None:
    """Answers over few tokens, so that chance matches abound: wrong proposals must stay rare."""

    def over_few_tokens(seed: int) -> Text:
        said = text([0.0] * 400, seed=seed)
        return Text(said.prompt, [token % 16 for token in said.answer], said.guesses, said.confidences)

    new, without = 0.0, 0.0
    for seed in range(0, 40, 4):
        said, *others = (over_few_tokens(seed + n) for n in range(4))
        plain = simulate(said, machine, 0).seconds
        repeated = simulate(said, machine, None, drafter=LookupDrafter(index(said.answer))).seconds
        assert repeated < plain / 2
        new += simulate(said, machine, None, drafter=LookupDrafter(index(*(each.answer for each in others)))).seconds
        without += simulate(said, machine, None, drafter=LookupDrafter()).seconds
    assert new < without * 1.005
