"""The fused kernels, on a CPU by Triton's interpreter: what they compute, and that a row's bits are its own.

    TRITON_INTERPRET=1 python -m pytest tests/nn/kernels/test_fused.py

Triton reads the variable when it is imported, so tests are skipped without it, and where Triton is missing.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.progress import follow
from specgen.core.tokens import Tokens
from specgen.core.types import ModelRef
from specgen.nn.device import Placement
from specgen.nn.lean.fusion import choose_kernels
from specgen.nn.lean.load import load_decoder, read_checkpoint_architecture
from tests.nn.lean.checkpoints import MODELS, VOCAB, load, save

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET is not 1", allow_module_level=True)
fused: Any = pytest.importorskip("specgen.nn.kernels.fused")

HEADS, KEY_HEADS, SIZE, WIDTH = 6, 2, 24, 8
CAPACITY = 1536


@pytest.fixture(autouse=True)
def short_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a short cache has many."""
    monkeypatch.setattr(fused, "SPLIT", 64)
    monkeypatch.setattr(fused, "_JOINED", 4)


@pytest.fixture(scope="module")
def cache() -> torch.Tensor:
    return torch.randn(2, KEY_HEADS, CAPACITY, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    return torch.randn(WIDTH + 5, HEADS + 2 * KEY_HEADS, SIZE, generator=torch.Generator().manual_seed(2))


def attended(rows: torch.Tensor, cache: torch.Tensor, start: int, **options: Any) -> torch.Tensor:
    return fused.attend(rows.contiguous(), cache, torch.tensor([start]), HEADS, scale=0.3, **options)


def reference(rows: torch.Tensor, cache: torch.Tensor, start: int, cap: float | None, window: int | None) -> Any:
    place = start + torch.arange(len(rows))[:, None]
    key = torch.arange(cache.shape[2])
    seen = (key <= place) & (key > place - (window or CAPACITY))
    keys, values = (part.repeat_interleave(HEADS // KEY_HEADS, 0) for part in cache)
    scores = torch.einsum("rhs,hks->hrk", rows[:, :HEADS], keys) * 0.3
    scores = scores if cap is None else cap * torch.tanh(scores / cap)
    mixed = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ values
    return mixed.permute(1, 0, 2).reshape(len(rows), -1)


@pytest.mark.parametrize(("cap", "window"), [(None, None), (5.0, None), (None, 40), (None, 400)])
@pytest.mark.parametrize("start", [0, 125, 252, 1400])
def test_attention_over_many_splits(
    rows: torch.Tensor, cache: torch.Tensor, start: int, cap: float | None, window: int | None
) -> None:
    """Near torch's; and in another place of its pass, or over a longer cache, a row has the same bits."""
    found = attended(rows[:WIDTH], cache, start, cap=cap, window=window)
    torch.testing.assert_close(found, reference(rows[:WIDTH], cache, start, cap, window), atol=1e-5, rtol=1e-5)
    longer = torch.cat([cache, torch.full_like(cache, 9.0)], 2)
    shifted = attended(rows[5:], longer, start + 5, cap=cap, window=window)
    assert torch.equal(found[5:], shifted[: WIDTH - 5])


@pytest.mark.parametrize(("start", "window"), [(70, None), (1400, 40), (1400, 700)])
def test_sums_that_nobody_has_written_are_not_read(
    rows: torch.Tensor, cache: torch.Tensor, start: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = attended(rows[:WIDTH], cache, start, cap=None, window=window)

    def poisoned(make: Any) -> Any:
        def run(*shape: Any, **kind: Any) -> torch.Tensor:
            made: torch.Tensor = make(*shape, **kind)
            return made.fill_(torch.nan) if made.is_floating_point() else made

        return run

    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty))
    assert torch.equal(attended(rows[:WIDTH], cache, start, cap=None, window=window), expected)


@pytest.mark.parametrize("name", ["llama", "gemma2", "phi3, partial rope"])
def test_a_model_runs_on_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Its passes agree with those of torch, and they are tried at its shapes before it is loaded."""
    folder = save(tmp_path, **MODELS[name])
    plain = load(folder)
    monkeypatch.setattr("specgen.nn.lean.fusion.load_kernels", lambda _: fused)
    choose_kernels.cache_clear()
    request.addfinalizer(choose_kernels.cache_clear)
    checkpoint = Checkpoint(ModelRef(str(folder)), folder)
    architecture = read_checkpoint_architecture(checkpoint)
    assert not isinstance(architecture, str)
    placement = Placement(torch.device("cpu"), torch.float32)
    model = follow(load_decoder(checkpoint, architecture, placement, 512, lambda: lambda step: step), lambda _: None)
    assert model._weights.fused is fused
    ids = [at % VOCAB for at in range(0, 300, 3)]
    for end, last in ((60, 1), (66, 6), (64, 1), (100, 1)):
        expected = plain.forward(Tokens(ids[:end]), last)
        torch.testing.assert_close(model.forward(Tokens(ids[:end]), last), expected, atol=1e-4, rtol=1e-4)


def test_norm_gate_and_rotation() -> None:
    torch.manual_seed(0)
    rows, weight = torch.randn(8, 300), torch.randn(300)
    expected = torch.nn.functional.rms_norm(rows, (300,), weight, 1e-5)
    torch.testing.assert_close(fused.rms_norm(rows, weight, 1e-5), expected, atol=1e-5, rtol=1e-5)
    joined = torch.randn(8, 2600)
    gate, up = joined.chunk(2, -1)
    torch.testing.assert_close(fused.gate(joined, "silu"), torch.nn.functional.silu(gate) * up, atol=1e-5, rtol=1e-5)
    gelu = torch.nn.functional.gelu(gate, approximate="tanh")
    torch.testing.assert_close(fused.gate(joined, "gelu"), gelu * up, atol=1e-5, rtol=1e-5)
