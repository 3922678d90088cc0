"""Sampled tokens follow the target's distribution, and are the same with any draft."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from specgen.core.tokens import Tokens
from specgen.core.types import SamplingParams
from specgen.engine import decode as decode_module
from specgen.engine.drafters.interface import Drafter, Proposal
from specgen.engine.drafters.lookup import LookupDrafter
from specgen.engine.drafters.model import ModelDrafter
from specgen.engine.sampling.device import fill_rows, pick_rows
from specgen.engine.sampling.penalties import Penalties
from specgen.engine.sampling.sampler import NonFiniteLogits, Sampler, warp
from specgen.engine.verify import Verdict
from tests.fakes import Scripted, TableModel, rounds, tokens_of

WARPS = [
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.6),
    SamplingParams(temperature=1.7),
    SamplingParams(temperature=1.0, top_k=1),
    SamplingParams(temperature=0.8, top_k=40),
    SamplingParams(temperature=1.0, top_k=5000),
    SamplingParams(temperature=1.0, top_p=0.9),
    SamplingParams(temperature=3.0, top_p=0.95),
    SamplingParams(temperature=1.0, top_p=0.01),
    SamplingParams(temperature=1.0, min_p=0.05),
    SamplingParams(temperature=0.7, top_k=50, top_p=0.8),
    SamplingParams(temperature=1.2, top_k=50, min_p=0.1),
    SamplingParams(temperature=1.5, top_p=0.9, min_p=0.02),
    SamplingParams(temperature=0.9, top_k=30, top_p=0.7, min_p=0.03),
]


def distribution(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """The warped distribution of one row as transformers computes it, over the whole vocabulary."""
    warpers: list[Any] = [TemperatureLogitsWarper(params.temperature)]
    if params.top_k:
        warpers.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        warpers.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        warpers.append(MinPLogitsWarper(params.min_p))
    scores = logits[None]
    for warper in warpers:
        scores = warper(torch.zeros((1, 1), dtype=torch.long), scores)
    return torch.softmax(scores[0].double(), -1)


def warped(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    scores, ids = warp(logits, params)
    dense = torch.zeros(logits.numel(), dtype=torch.float64)
    dense[ids] = torch.softmax(scores.double(), -1)
    return dense


@pytest.mark.parametrize("params", WARPS, ids=str)
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_warps_keep_what_those_of_transformers_keep(params: SamplingParams, spread: float) -> None:
    """The vocabulary is larger than the shortlist of top-p: flat rows need all of it, peaked ones do not."""
    for seed in range(3):
        logits = torch.randn(3_000, generator=torch.Generator().manual_seed(seed)) * spread
        # Rounding decides about one token at the edge of a flat nucleus, 0.0004 of it.
        assert (warped(logits, params) - distribution(logits, params)).abs().sum() < 0.001


@pytest.mark.parametrize("params", WARPS, ids=str)
def test_a_vocabulary_smaller_than_every_limit(params: SamplingParams) -> None:
    logits = torch.tensor([1.0, 0.5, -2.0])
    assert torch.allclose(warped(logits, params), distribution(logits, params), atol=1e-6)


def test_zero_top_p_keeps_the_likeliest() -> None:
    assert warp(torch.tensor([1.0, 3.0, 2.0]), SamplingParams(temperature=1.0, top_p=0.0))[1].tolist() == [1]


@given(
    st.lists(st.tuples(st.integers(0, 6), st.lists(st.integers(0, 7), max_size=3)), min_size=1, max_size=6),
    st.sampled_from([0.5, 1.0, 1.3]),
    st.sampled_from([-0.5, 0.0, 1.0]),
    st.sampled_from([0.0, 0.7]),
)
@settings(max_examples=60)
def test_penalties_follow_the_context_wherever_it_goes(
    walk: list[tuple[int, list[int]]], repetition: float, presence: float, frequency: float
) -> None:
    """The counts equal a count from the start, while contexts grow, branch and roll back."""
    params = SamplingParams(repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency)
    logits = torch.randn(6, generator=torch.Generator().manual_seed(0))  # ids 6 and 7 are beyond the vocabulary
    prompt = [0, 7, 1]
    penalties = Penalties(params, len(prompt))
    context = Tokens(prompt)
    for back, ids in walk:
        context = context.prefix(max(len(prompt), len(context) - back)).grow(ids)
        known = context.ids()
        expected = logits.clone()
        seen = torch.tensor([[token for token in known if token < 6]])
        if repetition != 1.0:
            expected = RepetitionPenaltyLogitsProcessor(repetition)(seen, expected[None])[0]
        for token, count in Counter(known[len(prompt) :]).items():
            if token < 6:
                expected[token] -= presence + frequency * count
        assert torch.allclose(penalties.apply(logits, context), expected)


def test_a_penalty_on_ids_that_a_row_does_not_have() -> None:
    """A draft's row is as long as the shared vocabulary; every generated id may lie beyond it."""
    params = SamplingParams(repetition_penalty=1.2, presence_penalty=1.0)
    row = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(Penalties(params, 1).apply(row, Tokens([7]).grow([8])), row)


def joint(
    model: TableModel, prompt: Sequence[int], params: SamplingParams, length: int
) -> dict[tuple[int, ...], float]:
    """The probability of every sequence of `length` tokens after `prompt`."""
    found: dict[tuple[int, ...], float] = {}
    for sequence in itertools.product(range(model.vocab_size), repeat=length):
        probability = 1.0
        for at, token in enumerate(sequence):
            probability *= float(distribution(model.row([*prompt, *sequence[:at]]), params)[token])
        found[sequence] = probability
    return found


def chi_square_p(counts: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """The p-value of `counts` by a chi-square test. Cells that expect fewer than five are merged."""
    total = counts.total()
    assert all(expected[sequence] > 0 for sequence in counts), "a token was drawn that the warps rule out"
    cells = [(counts[sequence], total * p) for sequence, p in expected.items() if total * p >= 5]
    rest = (total - sum(seen for seen, _ in cells), total - sum(wanted for _, wanted in cells))
    cells += [rest] if rest[1] >= 5 else []
    statistic = sum((seen - wanted) ** 2 / wanted for seen, wanted in cells)
    return float(torch.special.gammaincc(torch.tensor((len(cells) - 1) / 2).double(), torch.tensor(statistic / 2)))


PROMPT = [0, 1]
TARGET = TableModel(4, seed=3, order=2)


def drawn(params: SamplingParams, drafter: Drafter, runs: int = 1500) -> tuple[Counter[tuple[int, ...]], float]:
    """The counts of three tokens over many seeds, and the acceptance rate."""
    counts: Counter[tuple[int, ...]] = Counter()
    drafted = accepted = 0
    for seed in range(runs):
        seeded = SamplingParams(**{name: getattr(params, name) for name in SamplingParams.__slots__} | {"seed": seed})
        done = rounds(TARGET, PROMPT, seeded, drafter=drafter, k=2, new=3)
        counts[tuple(tokens_of(done))] += 1
        drafted += sum(each.drafted for each in done)
        accepted += sum(each.accepted for each in done)
    return counts, accepted / drafted


JOINTS = [
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.7, top_k=3),
    SamplingParams(temperature=1.3, top_p=0.85),
    SamplingParams(temperature=1.0, top_k=3, top_p=0.95, min_p=0.15),
]


@pytest.mark.parametrize("params", JOINTS, ids=str)
def test_three_drafted_tokens_are_distributed_as_the_target_says(params: SamplingParams) -> None:
    draft = TableModel(4, seed=3, order=2, noise=0.5)
    counts, rate = drawn(params, ModelDrafter(draft, 4, 100))
    assert 0.5 < rate < 0.98
    assert chi_square_p(counts, joint(TARGET, PROMPT, params, 3)) > 0.001


def test_a_drafter_that_ignores_the_noise_changes_no_distribution() -> None:
    """Fixed guesses: the rule does not depend on the source of a proposal."""
    params = SamplingParams(temperature=1.0)
    counts, rate = drawn(params, Scripted(lambda ids: [2, 1]))
    assert 0.05 < rate < 0.9
    assert chi_square_p(counts, joint(TARGET, PROMPT, params, 3)) > 0.001


def accept_the_first(proposal: Proposal, picks: Sequence[int]) -> Verdict:
    """Biased: accepts the first drafted token always."""
    kept = min(1, len(proposal.tokens))
    tokens = (*proposal.tokens[:kept], picks[kept])
    return Verdict(proposal, kept, tokens, (*proposal.sources[:kept], "corrected"))


def accept_what_is_likely(proposal: Proposal, picks: Sequence[int]) -> Verdict:
    """Biased: accepts a drafted token if the target finds it likely, without a draw."""
    kept = 0
    known = list(PROMPT)
    while kept < len(proposal.tokens) and torch.softmax(TARGET.row(known), -1)[proposal.tokens[kept]] > 0.3:
        known.append(proposal.tokens[kept])
        kept += 1
    tokens = (*proposal.tokens[:kept], picks[kept])
    return Verdict(proposal, kept, tokens, (*proposal.sources[:kept], "corrected"))


@pytest.mark.parametrize("biased", [accept_the_first, accept_what_is_likely])
def test_the_test_of_the_distribution_finds_a_biased_rule(biased: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the same draws under a wrong rule are far from the target's distribution."""
    monkeypatch.setattr(decode_module, "verify", biased)
    params = SamplingParams(temperature=1.0)
    counts, _ = drawn(params, Scripted(lambda ids: [2, 1]))
    assert chi_square_p(counts, joint(TARGET, PROMPT, params, 3)) < 1e-6


def test_the_draft_draws_with_the_targets_noise() -> None:
    """Without that, two equal models would agree in few draws."""
    params = SamplingParams(temperature=1.5, seed=5)
    twin = TableModel(50, seed=1)
    done = rounds(TableModel(50, seed=1), [1], params, drafter=ModelDrafter(twin, 50, 1000), k=4, new=40)
    assert all(each.accepted == each.drafted == 4 for each in done)


SAMPLINGS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    top_k=st.sampled_from([0, 3]),
    top_p=st.sampled_from([1.0, 0.8]),
    min_p=st.sampled_from([0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 0.6]),
    frequency_penalty=st.sampled_from([0.0, 0.4]),
    seed=st.integers(0, 2**63),
)
PROPOSALS = st.lists(st.lists(st.integers(0, 11), max_size=9), max_size=12)


@given(SAMPLINGS, st.integers(0, 8), PROPOSALS, st.sets(st.integers(0, 11), max_size=2), st.integers(1, 14))
@settings(max_examples=150)
def test_no_proposal_changes_a_run(
    params: SamplingParams, k: int, proposals: list[list[int]], ends: set[int], new: int
) -> None:
    """The tokens and the end are those of the plain run, whatever is proposed."""
    target = TableModel(12, seed=2, order=2, spread=2.0)
    prompt = [3, 1, 3]
    plain = rounds(target, prompt, params, new=new, end_ids=sorted(ends))
    script = iter(proposals)
    said = tokens_of(plain)

    def propose(ids: list[int]) -> list[int]:
        """The drawn proposal, after a drawn number of right tokens: so long accepted runs occur."""
        drawn = next(script, [])
        right = said[len(ids) - len(prompt) :][: drawn[0]] if drawn else []
        return [*right, *drawn[1:]]

    done = rounds(target, prompt, params, drafter=Scripted(propose), k=k, new=new, end_ids=sorted(ends))
    assert tokens_of(done) == said
    assert done[-1].finish == plain[-1].finish
    for each in done:
        assert 0 <= each.accepted <= each.drafted <= k
        assert len(each.tokens) <= each.accepted + 1
        assert len(each.sources) == len(each.tokens)


@pytest.mark.parametrize("k", [1, 2, 4, 7])
@pytest.mark.parametrize("kind", ["model", "smaller vocabulary", "short context", "lookup"])
def test_every_drafter_leaves_a_sampled_run_as_it_is(kind: str, k: int) -> None:
    for seed, params in enumerate(
        [
            SamplingParams(),
            SamplingParams(temperature=0.8),
            SamplingParams(temperature=1.0, top_k=4, presence_penalty=0.5, repetition_penalty=1.1),
            SamplingParams(repetition_penalty=1.5),
        ]
    ):
        seeded = SamplingParams(**{name: getattr(params, name) for name in SamplingParams.__slots__} | {"seed": seed})
        target = TableModel(12, seed=2, order=2, spread=2.0)
        draft = TableModel(12, seed=2, order=2, spread=2.0, noise=1.0)
        drafters: dict[str, Drafter] = {
            "model": ModelDrafter(draft, 12, 1000),
            "smaller vocabulary": ModelDrafter(draft, 7, 1000),
            "short context": ModelDrafter(draft, 12, 15),
            "lookup": LookupDrafter(),
        }
        plain = rounds(target, [1, 2, 3], seeded, new=30)
        done = rounds(target, [1, 2, 3], seeded, drafter=drafters[kind], k=k, new=30)
        assert tokens_of(done) == tokens_of(plain)


def test_a_pick_does_not_depend_on_the_other_rows() -> None:
    """One row at a time, or all rows of a proposal in one call."""
    logits = torch.randn((4, 40), generator=torch.Generator().manual_seed(0))
    context = Tokens([1, 2, 3])
    drafted = [5, 6, 7]
    for params in (SamplingParams(temperature=1.0, seed=9), SamplingParams(frequency_penalty=1.0)):
        together = Sampler(params, 3).pick(logits, context, drafted)
        single = Sampler(params, 3)
        assert together == [single.pick(logits[i : i + 1], context + drafted[:i])[0] for i in range(4)]


EXTREMES = [
    SamplingParams(temperature=1e-46, min_p=0.1),
    SamplingParams(temperature=5e-324),
    SamplingParams(temperature=1e-46, top_k=2, top_p=0.5),
    SamplingParams(temperature=1e300, min_p=1e-300),
    SamplingParams(temperature=1.0, top_p=5e-324),
    SamplingParams(temperature=1.0, min_p=1.0),
    SamplingParams(temperature=1.0, top_k=2**62),
    SamplingParams(temperature=1.0, repetition_penalty=1e-300),
    SamplingParams(temperature=1.0, repetition_penalty=1e300),
    SamplingParams(temperature=1.0, presence_penalty=1e300, frequency_penalty=-1e300),
    SamplingParams(presence_penalty=-1e300),
    SamplingParams(frequency_penalty=1e300),
]


@pytest.mark.parametrize("params", EXTREMES, ids=str)
def test_extreme_values_pick_a_token_of_the_vocabulary(params: SamplingParams) -> None:
    row = torch.tensor([[1.0, 3.0, 0.0, -2.0, -torch.inf]])
    context = Tokens([0, 1]).grow([3, 3, 1])
    (token,) = Sampler(params, 2).pick(row, context)
    assert 0 <= token < 4
    if params.temperature < 1e-40 or params.top_p < 1.0 or params.min_p == 1.0:
        assert params.greedy or token == 1


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(
    "params", [SamplingParams(), SamplingParams(temperature=1.0), SamplingParams(repetition_penalty=1.2)], ids=str
)
def test_logits_that_are_no_numbers_are_an_error(params: SamplingParams, broken: float) -> None:
    class Broken(TableModel):
        def row(self, ids: Sequence[int]) -> torch.Tensor:
            row = super().row(ids)
            if len(ids) > 4:
                row = row.clone()
                row[slice(None) if broken == -torch.inf else 3] = broken
            return row

    with pytest.raises(NonFiniteLogits, match="the target model computes no usable scores"):
        rounds(Broken(8), [1, 2], params)
    with pytest.raises(NonFiniteLogits, match=r"the draft model .*--draft none"):
        rounds(TableModel(8), [1, 2], params, drafter=ModelDrafter(Broken(8), 8, 100), k=4)


def test_the_first_of_equal_logits_is_picked() -> None:
    rows = torch.randint(0, 3, (8, 5_000), generator=torch.Generator().manual_seed(0)).float()
    first = [int((row == row.max()).nonzero()[0]) for row in rows]
    assert Sampler(SamplingParams(), 1).pick(rows, Tokens([1]), [2] * 7) == first


@pytest.mark.parametrize("top_k", [0, 7])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3])
@pytest.mark.parametrize("min_p", [0.0, 0.1])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 30.0])
def test_rows_are_picked_at_once_as_one_by_one(top_k: int, top_p: float, min_p: float, temperature: float) -> None:
    """The path for accelerators picks the same tokens as the path for a CPU."""
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=3)
    logits = torch.randn(8, 3000, generator=torch.Generator().manual_seed(1)) * 4
    context = Tokens([1, 2, 3])
    expected = Sampler(params, 3).pick(logits, context, [5] * 7)
    picks, complete = pick_rows(logits, params, len(context), temperature=max(temperature, 1e-9))
    if not complete.all():
        assert (temperature, top_k) == (30.0, 0), "only a flat row outgrows the shortlist"
        picks, complete = pick_rows(logits, params, len(context), temperature=temperature, whole=True)
    assert complete.all()
    assert picks.tolist() == expected


def test_a_row_without_numbers_is_marked() -> None:
    logits = torch.zeros(2, 50)
    logits[1, 7] = torch.nan
    for temperature in (0.0, 1.0):
        picks, _ = pick_rows(logits, SamplingParams(temperature=temperature), 0, temperature=1.0)
        assert (picks[0] >= 0, picks[1]) == (True, -1)


def test_rows_are_repeated_where_a_warp_sums_them() -> None:
    """Kernels may sum 1 row and 8 rows in another order, so a warp always gets a multiple of 8."""
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    filled = fill_rows(logits, SamplingParams(temperature=1.0, top_p=0.9))
    assert len(filled) == 8
    assert torch.equal(filled[:3], logits)
    for params in (SamplingParams(), SamplingParams(temperature=1.0)):
        assert fill_rows(logits, params) is logits
