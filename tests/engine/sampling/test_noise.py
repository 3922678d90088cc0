"""Gumbel noise is reproducible, and statistically independent. The inputs are fixed, so no test is flaky."""

import math

import pytest
import torch

from specgen.engine.sampling.noise import gumbel

IDS = torch.arange(20_000)


def uniform(noise: torch.Tensor) -> torch.Tensor:
    """The uniform variables behind Gumbel noise: its distribution function, exp(-exp(-g))."""
    return torch.exp(-torch.exp(-noise.double()))


def draws(axis: str, count: int = 20_000, *, shift: int = 0) -> torch.Tensor:
    """Noise along one axis of (seed, position, token), the other two fixed."""
    if axis == "token":
        return gumbel(7, 11, torch.arange(shift, count + shift))
    one = torch.tensor([5])
    at = {"seed": lambda i: gumbel(i, 11, one), "position": lambda i: gumbel(7, i, one)}[axis]
    return torch.cat([at(i + shift) for i in range(count)])


def chi_square_p(observed: torch.Tensor, expected: torch.Tensor, dof: int) -> float:
    """The probability of a statistic at least this large."""
    statistic = ((observed - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor(dof / 2.0).double(), statistic.double() / 2))


AXES = ["token", "seed", "position"]


@pytest.mark.parametrize("axis", AXES)
def test_noise_is_gumbel_along_every_axis(axis: str) -> None:
    noise = draws(axis, 5_000)
    counts = torch.histc(uniform(noise), bins=50, min=0, max=1)
    assert chi_square_p(counts, torch.full((50,), 100.0).double(), 49) > 0.001
    assert abs(float(noise.mean()) - 0.5772) < 4 * math.pi / math.sqrt(6 * 5_000)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("distance", [1, 2, 64])
def test_neighbours_along_an_axis_are_independent(axis: str, distance: int) -> None:
    noise = uniform(draws(axis, 4_000 + distance))
    mine, theirs = (noise[:4_000] * 8).long(), (noise[distance : 4_000 + distance] * 8).long()
    table = torch.bincount(mine * 8 + theirs, minlength=64).double()
    # Neighbouring pairs overlap, which changes the statistic little; the bound allows for it.
    assert chi_square_p(table, torch.full((64,), 4_000 / 64).double(), 63) > 0.001


@pytest.mark.parametrize(
    ("one", "other"), [((0, 0), (1, 0)), ((0, 0), (0, 1)), ((3, 9), (4, 8)), ((3, 9), (2, 10)), ((1, 0), (0, 1))]
)
def test_a_row_says_nothing_about_the_rows_around_it(one: tuple[int, int], other: tuple[int, int]) -> None:
    """Rows of neighbouring seeds and positions are neither equal, nor shifted, nor correlated."""
    mine, theirs = uniform(gumbel(*one, IDS)), uniform(gumbel(*other, IDS))
    for shift in (-2, -1, 0, 1, 2):
        moved = theirs.roll(shift)
        table = torch.bincount((mine * 8).long() * 8 + (moved * 8).long(), minlength=64).double()
        assert chi_square_p(table, torch.full((64,), len(IDS) / 64).double(), 63) > 0.0005


def test_any_subset_in_any_order_draws_what_the_whole_vocabulary_draws() -> None:
    vocabulary = torch.arange(152_000)
    whole = gumbel(123, 45, vocabulary)
    subset = torch.randperm(152_000, generator=torch.Generator().manual_seed(0))[:1_000]
    assert torch.equal(gumbel(123, 45, subset), whole[subset])
    assert torch.equal(gumbel(123, 45, vocabulary.reshape(2, -1)), whole.reshape(2, -1))
    assert torch.equal(gumbel(123, 45, vocabulary[:1]), whole[:1])


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 2**63, 2**64 - 1, 2**70, -1])
def test_noise_is_finite_for_every_seed(seed: int) -> None:
    noise = gumbel(seed, 1 << 20, torch.arange(300_000))
    assert noise.dtype == torch.float32
    assert torch.isfinite(noise).all()
    # 300,000 draws reach about log(300,000) = 12.6 and hardly ever 30.
    assert 9 < float(noise.max()) < 30


def test_noise_is_finite_where_the_uniform_rounds_to_one() -> None:
    """This happens once in 30 million draws."""
    assert torch.isfinite(gumbel(5, 0, torch.tensor([1_094_364]))).all()


def test_noise_stays_what_it_is() -> None:
    """A seed gives the same run in every later version."""
    known = gumbel(42, 7, torch.tensor([0, 1, 151_935]))
    assert known.tolist() == pytest.approx(KNOWN, abs=1e-5)


KNOWN = [0.240207, -0.432734, -1.601484]
