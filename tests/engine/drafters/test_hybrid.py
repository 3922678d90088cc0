"""Hybrid drafting: the source of each proposal, its length, and partial reading by the draft."""

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from specgen.core.tokens import Tokens
from specgen.engine.drafters.hybrid import HybridDrafter
from specgen.engine.drafters.interface import DraftPlan
from specgen.engine.drafters.lookup import LookupDrafter
from specgen.engine.drafters.match import Match
from specgen.engine.drafters.model import ModelDrafter
from specgen.engine.sampling.sampler import Sampler, SamplingParams
from tests.fakes import Speaker, TableModel, rounds

GREEDY = Sampler(SamplingParams(), 0)


class Reading(DraftPlan):
    """A plan with a limit on the tokens that the model reads, or that lookup proposes."""

    reading = 0
    lookups = 0

    def draft(self, unread: int, recent: int) -> tuple[int, int]:
        return self.limit, self.reading or unread

    def lookup(self, match: Match, *, beside_model: bool) -> tuple[int, float]:
        return self.lookups, 1.0


def plan(limit: int, *, reading: int = 0, lookups: int = 0) -> DraftPlan:
    made = type("Made", (Reading,), {"reading": reading, "lookups": lookups})
    return made(limit, GREEDY)  # type: ignore[no-any-return]


def hybrid(model: Speaker) -> HybridDrafter:
    return HybridDrafter(LookupDrafter(), ModelDrafter(model, 32, 100))


def test_a_match_is_looked_up_and_the_model_drafts_the_rest() -> None:
    drafter = hybrid(Speaker([10, 11, 12], 3, vocab_size=32))
    assert drafter.propose(Tokens([5, 6, 7]), DraftPlan(2, GREEDY)).sources == ("draft", "draft")
    looked_up = drafter.propose(Tokens([5, 6, 7, 5, 6]), DraftPlan(3, GREEDY))
    assert (looked_up.tokens, looked_up.sources) == ((7, 5, 6), ("lookup",) * 3)


def test_a_match_that_is_not_worth_proposing_is_left_to_the_model() -> None:
    """The proposal has the continuation of the match, so that the controller learns from it."""
    drafter = hybrid(Speaker([0, 0, 12, 13], 3, vocab_size=32))
    proposal = drafter.propose(Tokens([5, 6, 7, 5, 6]), plan(2))
    assert (proposal.tokens, proposal.sources) == ((12, 13), ("draft",) * 2)
    (match,) = proposal.matches
    assert (match.length, match.continuation[:3]) == (2, (7, 5, 6))


def test_the_model_reads_only_what_lookups_left_unread() -> None:
    model = Speaker([], 3, vocab_size=32)
    drafter = hybrid(model)
    drafter.propose(Tokens([5, 6, 7]), DraftPlan(1, GREEDY))
    assert model.fed == 3
    context = Tokens([5, 6, 7]).grow([5, 6])
    drafter.propose(context, DraftPlan(1, GREEDY))
    assert model.fed == 3
    drafter.propose(context.grow([9, 30]), DraftPlan(1, GREEDY))
    assert model.fed == 3 + 4


def test_a_draft_that_may_not_read_everything_reads_the_end() -> None:
    model = TableModel(16, order=1)
    drafter = ModelDrafter(model, 16, 1000)
    context = Tokens(list(range(10)) * 10)
    partly = drafter.propose(context, plan(2, reading=8))
    assert (model.fed, partly.read) == (8 + 1, 8)
    whole = ModelDrafter(TableModel(16, order=1), 16, 1000)
    assert partly.tokens == whole.propose(context, DraftPlan(2, GREEDY)).tokens
    # It continues that view as the text grows, starts a longer view if allowed, and reads everything if allowed.
    context = context.grow(partly.tokens)
    assert drafter.propose(context, plan(1, reading=4)).read == 1
    context = context.grow([3, 4])
    assert drafter.propose(context, plan(1, reading=40)).read == 40
    assert drafter.propose(context, plan(1, reading=200)).read == len(context)


def test_a_draft_says_how_sure_it_is() -> None:
    proposal = ModelDrafter(Speaker([10, 11], 1, vocab_size=32), 32, 100).propose(Tokens([5]), DraftPlan(2, GREEDY))
    assert len(proposal.confidences) == 2
    assert all(0.99 < confidence <= 1.0 for confidence in proposal.confidences)


def test_the_longest_match_is_found_beyond_the_longest_indexed() -> None:
    """The later match has five tokens, the earlier one eight."""
    end = [1, 2, 3, 4, 5, 6, 7, 8]
    context = [*end, 20, 9, *end[3:], 21, 9, 9, *end]
    assert LookupDrafter().propose(Tokens(context), DraftPlan(1, GREEDY)).tokens == (20,)


def longest_match(ids: list[int], shortest: int = 2, longest: int = 64) -> int:
    """Length of the longest earlier n-gram that the end of `ids` repeats, by brute force."""
    sizes = range(min(longest, len(ids) - 1), shortest - 1, -1)
    return next((n for n in sizes if any(ids[at : at + n] == ids[-n:] for at in range(len(ids) - n))), 0)


@given(ids=st.lists(st.integers(0, 3), min_size=2, max_size=40))
def test_a_match_is_the_longest_there_is(ids: list[int]) -> None:
    drafter, context = LookupDrafter(), Tokens(ids[:1])
    for token in ids[1:]:
        context = context.grow([token])
        proposal = drafter.propose(context, DraftPlan(3, GREEDY))
        known = context.ids()
        assert max((match.length for match in proposal.matches), default=0) == longest_match(known)
        for match in proposal.matches:
            size = min(match.length, 5)  # the occurrences of the longest indexed n-gram vote
            whole = [*known[-size:], *match.continuation]
            assert whole[: size + 1] in [known[at : at + size + 1] for at in range(len(known))]


def test_a_token_costs_the_same_late_in_a_long_context() -> None:
    """Index entries and comparisons per token do not grow with the text."""
    dice = random.Random(0)
    ids = [dice.randrange(50) for _ in range(5000)]
    drafter, context = LookupDrafter(), Tokens()
    sizes = []
    for at in range(0, 5000, 1000):
        context = context.grow(ids[at : at + 1000])
        drafter.propose(context, DraftPlan(1, GREEDY))
        sizes.append(len(drafter._after))
    grown = [after - before for before, after in pairwise(sizes)]
    assert max(grown) <= 4 * 1000


def test_both_sources_are_told_apart_in_a_run() -> None:
    answer = [10, 11, 12, 13, 14, 15] * 4
    target, model = (Speaker(answer, 2, vocab_size=32) for _ in range(2))
    done = rounds(target, [1, 2], drafter=hybrid(model), k=3, new=len(answer))
    drafted = [each.drafted_sources[0] for each in done if each.drafted]
    assert drafted[0] == "draft"
    assert drafted[-1] == "lookup"
    assert all(len(each.drafted_sources) == each.drafted for each in done)
