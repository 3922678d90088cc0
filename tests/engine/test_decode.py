"""The decoding loop on scripted models: exact acceptance, limits, and the number of tokens fed."""

import pytest

from specgen.core.tokens import Tokens
from specgen.engine.drafters.interface import DraftPlan, Proposal
from specgen.engine.drafters.lookup import LookupDrafter
from specgen.engine.drafters.model import ModelDrafter
from specgen.engine.sampling.sampler import Sampler, SamplingParams
from specgen.engine.verify import verify
from tests.fakes import Scripted, Speaker, TableModel, always_wrong, oracle, rounds, tokens_of

PROMPT = [5, 6, 7]
ANSWER = [10, 11, 12, 13, 14, 15, 16, 17, 18, 19]


def speaker() -> Speaker:
    return Speaker(ANSWER, len(PROMPT), vocab_size=32)


def test_an_oracle_is_accepted_whole_every_round() -> None:
    target = speaker()
    done = rounds(target, PROMPT, drafter=oracle(ANSWER, 3), k=4, new=10)
    assert [(each.drafted, each.accepted, each.tokens) for each in done] == [
        (4, 4, (10, 11, 12, 13, 14)),
        (4, 4, (15, 16, 17, 18, 19)),
    ]
    assert [each.sources for each in done] == [("draft",) * 4 + ("bonus",)] * 2
    assert [each.finish for each in done] == [None, "length"]
    assert target.calls == [(7, 5), (12, 5)]


def test_an_always_wrong_drafter_changes_nothing() -> None:
    target = speaker()
    drafter = always_wrong(ANSWER, 3, 32)
    done = rounds(target, PROMPT, drafter=drafter, k=4, new=10)
    assert tokens_of(done) == ANSWER
    assert [(each.accepted, len(each.tokens)) for each in done] == [(0, 1)] * 10
    assert {each.sources for each in done[:-1]} == {("corrected",)}
    assert [each.drafted for each in done] == [4, 4, 4, 4, 4, 4, 3, 2, 1, 0]


def test_no_drafter_makes_one_token_a_round() -> None:
    done = rounds(speaker(), PROMPT, k=4, new=10)
    assert tokens_of(done) == ANSWER
    assert {(each.drafted, each.accepted, each.sources) for each in done} == {(0, 0, ("bonus",))}


def test_the_first_wrong_token_ends_a_round() -> None:
    drafter = Scripted(lambda ids: {3: [10, 11, 0, 13], 6: [13, 14, 15, 16]}.get(len(ids), []))
    done = rounds(speaker(), PROMPT, drafter=drafter, k=4, new=8)
    assert [(each.tokens, each.sources) for each in done] == [
        ((10, 11, 12), ("draft", "draft", "corrected")),
        ((13, 14, 15, 16, 17), ("draft",) * 4 + ("bonus",)),
    ]
    assert [(each.accepted, each.drafted_tokens) for each in done] == [
        (2, (10, 11, 0, 13)),
        (4, (13, 14, 15, 16)),
    ]


@pytest.mark.parametrize("end_at", range(6))
def test_the_end_token_cuts_an_accepted_run(end_at: int) -> None:
    """Among the accepted tokens, as the correction, or as the bonus token."""
    done = rounds(speaker(), PROMPT, drafter=oracle(ANSWER, 3), k=4, new=10, end_ids=[ANSWER[end_at]])
    assert tokens_of(done) == ANSWER[: end_at + 1]
    assert done[-1].finish == "end"
    assert done[-1].context.ids() == PROMPT + ANSWER[: end_at + 1]
    for each in done:
        assert len(each.tokens) <= each.accepted + 1
        assert len(each.sources) == len(each.tokens)
        assert each.accepted <= each.drafted
        assert each.accepted <= len(each.tokens), "what the end token cut off was not used"


def test_the_end_token_counts_before_the_limit() -> None:
    done = rounds(speaker(), PROMPT, drafter=oracle(ANSWER, 3), k=4, new=5, end_ids=[14])
    assert done[-1].finish == "end"
    assert tokens_of(done) == ANSWER[:5]


@pytest.mark.parametrize("new", range(1, 11))
def test_the_limit_is_met_exactly(new: int) -> None:
    """A proposal leaves room for the target's token, so that no verified token is dropped."""
    target = speaker()
    done = rounds(target, PROMPT, drafter=oracle(ANSWER, 3), k=4, new=new)
    assert tokens_of(done) == ANSWER[:new]
    assert done[-1].finish == "length"
    assert max(length for length, _ in target.calls) == len(PROMPT) + new - 1


def test_a_round_feeds_only_what_is_new() -> None:
    """After the prompt: the tokens that are not in the cache, and the proposal."""
    target = speaker()
    rounds(target, PROMPT, drafter=oracle(ANSWER, 3), k=4, new=10)
    # The prompt and a proposal; then the bonus token and a proposal.
    assert target.fed == (3 + 4) + (1 + 4)


def test_the_draft_feeds_only_what_is_new() -> None:
    draft = speaker()
    rounds(speaker(), PROMPT, drafter=ModelDrafter(draft, 32, 100), k=4, new=10)
    # The prompt, three of its four tokens; then its last token, the bonus token, three of the next four.
    assert draft.fed == 3 + 3 + 2 + 3


def test_verify_is_the_longest_common_prefix() -> None:
    proposal = Proposal((1, 2, 3), ("lookup",) * 3)
    assert verify(proposal, [1, 2, 3, 4]).tokens == (1, 2, 3, 4)
    assert verify(proposal, [1, 2, 3, 4]).sources == ("lookup", "lookup", "lookup", "bonus")
    # The last two picks belong to rejected text: their agreement with the draft means nothing.
    verdict = verify(proposal, [1, 9, 3, 4])
    assert (verdict.accepted, verdict.tokens, verdict.sources) == (1, (1, 9), ("lookup", "corrected"))
    assert verify(Proposal(), [7]).tokens == (7,)


def plan(limit: int, end_ids: tuple[int, ...] = ()) -> DraftPlan:
    return DraftPlan(limit, Sampler(SamplingParams(), 0), frozenset(end_ids))


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ([1, 2, 3, 9, 9, 1, 2, 3], (9, 9, 1)),  # the longest match
        ([1, 2, 4, 1, 2, 5, 1, 2], (5, 1, 2)),  # the latest among equals
        ([7, 1, 2, 4, 8, 1, 2, 5, 7, 1, 2], (4, 8, 1)),  # longer beats later
        ([1, 2, 1, 2], (1, 2, 1)),  # a match that reaches the end continues with itself
        ([1, 2, 3, 4], ()),
        ([1, 9, 1], ()),  # a single token does not count
        ([1], ()),
    ],
)
def test_lookup_proposes_what_followed_the_longest_latest_match(context: list[int], expected: tuple[int, ...]) -> None:
    proposal = LookupDrafter().propose(Tokens(context), plan(3))
    assert proposal.tokens == expected
    assert set(proposal.sources) <= {"lookup"}


def test_lookup_forgets_a_text_that_was_rolled_back() -> None:
    drafter = LookupDrafter()
    context = Tokens([1, 2, 3])
    drafter.propose(context.grow([8, 9, 1, 2]), plan(3))
    assert drafter.propose(context.grow([4, 2, 3]), plan(2)).tokens == (4, 2)
    assert drafter.propose(context.grow([7, 8, 9]), plan(2)).tokens == ()


@pytest.mark.parametrize("limit", [-1, 0])
def test_nothing_is_proposed_without_room(limit: int) -> None:
    context = Tokens([1, 2, 1, 2])
    assert LookupDrafter().propose(context, plan(limit)).tokens == ()
    assert ModelDrafter(TableModel(8), 8, 100).propose(context, plan(limit)).tokens == ()


def test_nothing_is_proposed_after_an_end_token() -> None:
    assert LookupDrafter().propose(Tokens([1, 2, 3, 4, 1, 2]), plan(4, (3,))).tokens == (3,)
    draft = Speaker(ANSWER, 3, vocab_size=32)
    assert ModelDrafter(draft, 32, 100).propose(Tokens(PROMPT), plan(4, (11,))).tokens == (10, 11)


def test_a_draft_is_silent_past_its_own_context() -> None:
    drafter = ModelDrafter(Speaker(ANSWER, 3, vocab_size=32), 32, 5)
    assert drafter.propose(Tokens(PROMPT), plan(7)).tokens == (10, 11, 12)
    assert drafter.propose(Tokens([*PROMPT, 10, 11]), plan(7)).tokens == (12,)
    assert drafter.propose(Tokens([*PROMPT, 10, 11, 12]), plan(7)).tokens == ()


def test_a_draft_proposes_only_ids_that_both_models_know() -> None:
    """Beyond the shared range its row has padding, or tokens that the target does not know."""
    proposal = ModelDrafter(Speaker(ANSWER, 3, vocab_size=32), 12, 100).propose(Tokens(PROMPT), plan(5))
    assert proposal.tokens[:2] == (10, 11)
    assert max(proposal.tokens) < 12


def test_a_draft_is_not_fed_ids_that_it_does_not_know() -> None:
    """It drafts again when it can read the context."""
    drafter = ModelDrafter(Speaker(ANSWER, 3, vocab_size=32), 32, 100)
    context = Tokens(PROMPT)
    assert drafter.propose(context.grow([40]), plan(2)).tokens == ()
    assert drafter.propose(context.grow([40, 10]), plan(2)).tokens == ()
    assert drafter.propose(context, plan(2)).tokens == (10, 11)
