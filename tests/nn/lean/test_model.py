"""The lean decoder agrees with transformers, and logits do not depend on the widths of the passes."""

import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from specgen.core.tokens import Tokens
from specgen.nn.lean import attention
from tests.nn.lean.checkpoints import MODELS, VOCAB, load, reference, save

# Crosses every window above, blocks of 64 positions, and a piece of a prompt (256 tokens).
LENGTH = 300
IDS = random.Random(1).choices(range(VOCAB), k=1200)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"), **MODELS[request.param])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("llama"), **MODELS["llama"])


def splits(length: int, seed: int) -> list[tuple[int, int]]:
    """Random pieces of 1 to 9 positions, `length` in all."""
    dice = random.Random(seed)
    ends = [0]
    while ends[-1] < length:
        ends.append(min(length, ends[-1] + dice.randint(1, 9)))
    return list(pairwise(ends))


def test_every_family_agrees_with_transformers(folder: Path) -> None:
    logits = reference(folder, IDS[:LENGTH])
    rows = load(folder).forward(Tokens(IDS[:LENGTH]), LENGTH)
    torch.testing.assert_close(rows, logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_logits_are_the_same_to_the_bit_however_the_tokens_are_fed(folder: Path, dtype: torch.dtype) -> None:
    model = load(folder, dtype)
    whole = model.forward(Tokens(IDS[:LENGTH]), LENGTH)
    model.forward(Tokens([3]), 1)
    pieces = [model.forward(Tokens(IDS[:end]), end - start) for start, end in splits(LENGTH, 1)]
    assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.parametrize("size", [64, 96, 128, 256])
@pytest.mark.parametrize("groups", [1, 4, 6, 7])
@pytest.mark.parametrize("cap", [None, 50.0])
def test_attention_is_exact_on_this_processor(size: int, groups: int, cap: float | None) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        tile = attention.choose_tile(size, groups, cap, dtype)
        assert not attention.depends_on_width(size, groups, cap, dtype, tile)


def test_rows_attend_in_small_tiles_where_whole_blocks_are_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    for faulty, tile in ((True, attention.ROWS), (False, attention.BLOCK)):
        monkeypatch.setattr(attention, "depends_on_width", lambda *_, faulty=faulty: faulty)
        assert attention.choose_tile.__wrapped__(128, 4, None, torch.float32) == tile


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_the_bits_hold_for_real_sizes_and_a_growing_cache(tmp_path: Path, head_dim: int, kind: str) -> None:
    sizes = {"head_dim": head_dim, "hidden_size": 1536, "num_hidden_layers": 1}
    model = load(save(tmp_path, **MODELS[kind] | sizes))
    length = 470 + sum(range(1, 17))
    whole = model.forward(Tokens(IDS[:length]), length)
    model.forward(Tokens([3]), 1)
    assert torch.equal(model.forward(Tokens(IDS[:6]), 1), whole[5:6])
    # A prompt in pieces, then rounds of 1 to 16 tokens, past the end of the first 512 positions.
    pieces, end = [model.forward(Tokens(IDS[:470]), 5)], 470
    for width in range(1, 17):
        end += width
        pieces.append(model.forward(Tokens(IDS[:end]), width))
    assert torch.equal(torch.cat(pieces), whole[465:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_the_bits_hold_where_threads_divide_a_row(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    torch.set_num_threads(5)
    model = load(save(tmp_path, **MODELS[kind] | {"intermediate_size": 11008, "num_hidden_layers": 1}), dtype)
    alone = [model.forward(Tokens(IDS[: end + 1]), 1) for end in range(64)]
    for start in range(0, 64, 8):
        model.forward(Tokens([3]), 1)
        model.forward(Tokens(IDS[: start + 1]), 1)
        rows = model.forward(Tokens(IDS[: start + 8]), 7)
        assert torch.equal(rows, torch.cat(alone[start + 1 : start + 8]))


def test_a_rejected_proposal_leaves_no_trace(llama: Path) -> None:
    model = load(llama)
    context = Tokens(IDS[:70])
    proposal = (9, 8, 7, 6)
    model.forward(context + proposal, 5)
    accepted = context.grow([9, 8, 5])
    assert torch.equal(model.forward(accepted, 2), load(llama).forward(accepted, 2))


def test_a_call_may_ask_for_rows_that_are_cached_already(llama: Path) -> None:
    model = load(llama)
    whole = model.forward(Tokens(IDS[:40]), 40)
    assert torch.equal(model.forward(Tokens(IDS[:40]), 12), whole[-12:])


def test_a_token_that_does_not_exist_is_an_error_that_leaves_no_trace(llama: Path) -> None:
    model = load(llama)
    expected = model.forward(Tokens(IDS[:20]), 20)
    with pytest.raises(IndexError):
        model.forward(Tokens([*IDS[:10], VOCAB]), 1)
    assert torch.equal(model.forward(Tokens(IDS[:20]), 20), expected)


def test_after_running_out_of_memory_half_way_the_next_call_is_right(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(llama)
    expected = model.forward(Tokens(IDS[:600]), 1)
    model = load(llama)
    model.forward(Tokens(IDS[:500]), 1)
    zeros, left = torch.zeros, iter([True, True])

    def two_more(*arguments: object, **options: object) -> torch.Tensor:
        if next(left, False):
            return zeros(*arguments, **options)
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", two_more)
        with pytest.raises(MemoryError):
            model.forward(Tokens(IDS[:600]), 1)
    assert torch.equal(model.forward(Tokens(IDS[:600]), 1), expected)


def test_a_context_longer_than_the_first_cache_agrees_with_transformers(tmp_path: Path) -> None:
    save(tmp_path, **MODELS["qwen3"] | {"max_position_embeddings": 2048})
    model = load(tmp_path, context_length=1200)
    logits = reference(tmp_path, IDS)
    model.forward(Tokens(IDS[:500]), 1)
    torch.testing.assert_close(model.forward(Tokens(IDS), 3), logits[-3:], atol=1e-4, rtol=0)


def test_bfloat16_is_close(llama: Path) -> None:
    logits = reference(llama, IDS[:LENGTH])
    rows = load(llama, torch.bfloat16).forward(Tokens(IDS[:LENGTH]), LENGTH)
    assert rows.dtype == torch.float32
    assert (rows - logits).abs().max() < 0.05 * logits.abs().max()


def test_shards_of_another_dtype_are_read(tmp_path: Path) -> None:
    save(tmp_path, **MODELS["qwen2"], dtype=torch.bfloat16, shard="30KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    logits = reference(tmp_path, IDS[:20])
    torch.testing.assert_close(load(tmp_path).forward(Tokens(IDS[:20]), 20), logits, atol=1e-4, rtol=0)


def test_what_a_decoding_loop_asks_of_a_model(llama: Path) -> None:
    model = load(llama, context_length=777)
    assert (model.vocab_size, model.context_length, model.can_verify) == (VOCAB, 777, True)
    assert model.forward(Tokens(IDS[:5]), 2).shape == (2, VOCAB)


def test_it_runs_without_transformers(llama: Path) -> None:
    script = f"""
import sys
from collections.abc import Iterator
from pathlib import Path
import torch
from specgen.core.types import ModelRef
from specgen.nn.device import Placement
from specgen.nn.lean.load import read_checkpoint_architecture, load_decoder
from specgen.core.tokens import Tokens
from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.progress import follow
checkpoint = Checkpoint(ModelRef("tiny"), Path({str(llama)!r}))
placement = Placement(torch.device("cpu"), torch.float32)
model = follow(load_decoder(checkpoint, read_checkpoint_architecture(checkpoint), placement, 100), lambda _: None)
print(model.forward(Tokens([1, 2, 3]), 1).argmax().item(), "transformers" in sys.modules)
"""
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    best = load(llama).forward(Tokens([1, 2, 3]), 1).argmax().item()
    assert output.split() == [str(best), "False"]
