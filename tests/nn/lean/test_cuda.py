"""The lean decoder on a CUDA device: kernels, identity over widths, graphs, the sampler, memory."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from specgen import Session
from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.errors import OutOfMemory
from specgen.core.events import Event, Failed, Finished, Step
from specgen.core.progress import follow
from specgen.core.tokens import Tokens
from specgen.core.types import Device, Dtype, EngineOptions, ModelRef, SamplingChoice, SamplingParams
from specgen.engine.sampling.sampler import Sampler
from specgen.nn.device import Placement
from specgen.nn.lean import model as lean_model
from specgen.nn.lean.graphs import CudaGraphs
from specgen.nn.lean.load import load_decoder, read_checkpoint_architecture
from specgen.nn.lean.static import WIDTH, StaticModel
from tests.checkpoints import Checkpoints
from tests.nn.lean.checkpoints import MODELS, VOCAB, load, save

pytestmark = pytest.mark.cuda

IDS = random.Random(1).choices(range(VOCAB), k=900)
DTYPES = [torch.bfloat16, torch.float32]


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3, partial rope", "olmo2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"), **MODELS[request.param])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("llama"), **MODELS["llama"])


def on_cuda(folder: Path, dtype: torch.dtype) -> StaticModel:
    checkpoint = Checkpoint(ModelRef(str(folder)), folder)
    architecture = read_checkpoint_architecture(checkpoint)
    assert not isinstance(architecture, str), architecture
    placement = Placement(torch.device("cuda"), dtype)
    model = follow(load_decoder(checkpoint, architecture, placement, 2048, CudaGraphs), lambda _: None)
    assert isinstance(model, StaticModel)
    assert model.warm_up() is None, "capturing works"
    return model


def one_by_one(model: StaticModel, start: int, end: int) -> torch.Tensor:
    """The logits of positions `start` to `end`, each fed alone after a prompt of `start` tokens."""
    return torch.cat([model.forward(Tokens(IDS[: position + 1]), 1) for position in range(start, end)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logits_are_those_of_the_cpu(folder: Path, dtype: torch.dtype) -> None:
    expected = load(folder).forward(Tokens(IDS[:200]), 20)
    found = on_cuda(folder, dtype).forward(Tokens(IDS[:200]), 20).cpu()
    error = (found - expected).norm() / expected.norm()
    assert error < (0.05 if dtype == torch.bfloat16 else 2e-3), error


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_bits_hold_at_every_width(folder: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of every width with tokens taken back, while the cache grows twice, against one token a pass."""
    monkeypatch.setattr(lean_model, "FIRST", 64)
    plain, model, dice = on_cuda(folder, dtype), on_cuda(folder, dtype), random.Random(2)
    start, end = 40, 260
    expected = one_by_one(plain, start, end)
    position = start
    while position < end - 20:
        drafted = dice.randint(0, 14)
        correct = dice.randint(0, drafted)
        proposal = [*IDS[position + 1 : position + 1 + correct], *dice.choices(range(VOCAB), k=drafted - correct)]
        rows = model.forward(Tokens(IDS[: position + 1]) + proposal, drafted + 1)
        seen = expected[position - start : position - start + correct + 1]
        assert torch.equal(rows[: correct + 1], seen), (position, drafted)
        position += correct + 1


def test_a_graph_replays_what_it_captured(llama: Path) -> None:
    model = on_cuda(llama, torch.float32)
    first = model.forward(Tokens(IDS[:30]), 1)
    kept = first.clone()
    model.forward(Tokens(IDS[100:140]), 3)
    assert torch.equal(first, kept), "results outlive the next pass"
    assert torch.equal(model.forward(Tokens(IDS[:30]), 1), kept)
    grown = model.forward(Tokens(IDS[:700]), 1)
    assert torch.equal(model.forward(Tokens(IDS[:30]), 1), kept), "after the cache has grown"
    assert torch.equal(model.forward(Tokens(IDS[:700]), 1), grown)


def test_a_token_that_does_not_exist_never_reaches_the_device(llama: Path) -> None:
    model = on_cuda(llama, torch.float32)
    expected = model.forward(Tokens(IDS[:20]), 2)
    with pytest.raises(IndexError):
        model.forward(Tokens([*IDS[:10], VOCAB]), 1)
    assert torch.equal(model.forward(Tokens(IDS[:20]), 2), expected)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.8, seed=1),
        SamplingParams(temperature=0.8, top_p=0.9, seed=1),
        SamplingParams(temperature=1.2, top_k=40, top_p=0.95, min_p=0.02, seed=1),
        SamplingParams(temperature=30.0, top_p=0.99, seed=1),
        SamplingParams(temperature=0.8, repetition_penalty=1.2, presence_penalty=0.5, seed=1),
    ],
)
def test_the_sampler_picks_what_it_picks_on_a_cpu(params: SamplingParams) -> None:
    logits = torch.randn(8, 5000, generator=torch.Generator().manual_seed(1)) * 3
    drafted = IDS[:7]
    expected = Sampler(params, 3).pick(logits, Tokens([1, 2, 3]), drafted)
    assert Sampler(params, 3).pick(logits.cuda(), Tokens([1, 2, 3]), drafted) == expected
    token, probability = Sampler(params, 3).draft(logits[:1].cuda(), Tokens([1, 2, 3]))
    assert (token, pytest.approx(probability, rel=1e-3)) == Sampler(params, 3).draft(logits[:1], Tokens([1, 2, 3]))


def answered(session: Session, prompt: str, tokens: int = 40, **sampling: Any) -> list[Event]:
    choice = SamplingChoice(**{"temperature": 0.0} | sampling)
    return list(session.generate(prompt, raw=True, sampling=choice, max_new_tokens=tokens))


def ids(events: list[Event]) -> list[int]:
    assert isinstance(events[-1], Finished), events[-1]
    return [token for event in events if isinstance(event, Step) for token in event.tokens]


Open = Callable[..., Session]


@pytest.fixture
def opened(checkpoints: Checkpoints) -> Open:
    def open_pair(draft: bool = True, k: int | None = 3, dtype: Dtype = Dtype.BFLOAT16) -> Session:
        options = EngineOptions(device=Device.CUDA, dtype=dtype, num_draft_tokens=k, lookup=False)
        return Session(str(checkpoints.target("llama")), str(checkpoints.draft("llama")) if draft else "none", options)

    return open_pair


@pytest.mark.parametrize("dtype", [Dtype.BFLOAT16, Dtype.FLOAT32])
@pytest.mark.parametrize("k", [1, 4, 7, 9, None])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_the_text_is_that_of_plain_decoding(opened: Open, k: int | None, temperature: float, dtype: Dtype) -> None:
    plain, pair = opened(draft=False, dtype=dtype), opened(k=k, dtype=dtype)
    for prompt in ("the quick brown fox", "the lazy dog"):
        expected = ids(answered(plain, prompt, temperature=temperature, seed=1))
        assert ids(answered(pair, prompt, temperature=temperature, seed=1)) == expected


def test_two_pairs_in_turn(opened: Open) -> None:
    first, second = opened(), opened(k=5)
    expected = ids(answered(first, "the quick brown fox"))
    assert ids(answered(second, "the quick brown fox")) == expected
    assert ids(answered(first, "the quick brown fox")) == expected


def test_a_stopped_answer_leaves_the_pair_as_new(opened: Open) -> None:
    session = opened()
    expected = ids(answered(session, "the lazy dog"))
    events = session.generate("the quick brown fox", raw=True, max_new_tokens=40)
    for event in events:
        if isinstance(event, Step):
            break
    events.close()  # type: ignore[attr-defined]
    assert ids(answered(session, "the lazy dog")) == expected


def test_running_out_of_memory_keeps_the_text_and_lets_go(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened()
    expected = ids(answered(session, "the lazy dog"))
    target = session.pair.target
    calls = iter(range(100))
    forward = target.forward

    def failing(tokens: Tokens, last: int) -> torch.Tensor:
        if next(calls) == 5:
            torch.empty(1 << 46, dtype=torch.uint8, device="cuda")
        return forward(tokens, last)

    monkeypatch.setattr(target, "forward", failing)
    events = answered(session, "the lazy dog")
    assert isinstance(events[-1], Failed)
    assert isinstance(events[-1].error, OutOfMemory)
    assert any(isinstance(event, Step) for event in events), "the text so far was shown"
    monkeypatch.undo()
    assert ids(answered(session, "the lazy dog")) == expected


def test_a_kernel_that_fuses_agrees_with_torch() -> None:
    from specgen.nn.kernels import fused

    torch.manual_seed(0)
    rows, weight = torch.randn(8, 300, device="cuda"), torch.randn(300, device="cuda")
    expected = torch.nn.functional.rms_norm(rows, (300,), weight, 1e-5)
    torch.testing.assert_close(fused.rms_norm(rows, weight, 1e-5), expected, atol=1e-5, rtol=1e-5)
    joined = torch.randn(8, 2600, device="cuda")
    gate, up = joined.chunk(2, -1)
    torch.testing.assert_close(fused.gate(joined, "silu"), torch.nn.functional.silu(gate) * up, atol=1e-5, rtol=1e-5)
    gelu = torch.nn.functional.gelu(gate, approximate="tanh")
    torch.testing.assert_close(fused.gate(joined, "gelu"), gelu * up, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("cap", "window"), [(None, None), (5.0, None), (None, 40)])
@pytest.mark.parametrize("start", [0, 125, 300])
def test_attention_sums_alike_wherever_a_row_stands(
    start: int, cap: float | None, window: int | None, dtype: torch.dtype
) -> None:
    """In another place of its pass, and over a longer cache, a row has the same bits; and they are near torch's."""
    from specgen.nn.kernels import fused

    torch.manual_seed(start)
    heads, key_heads, size, shift = 6, 2, 24, 5
    cache = torch.randn(2, key_heads, 384, size, device="cuda").to(dtype)
    rows = torch.randn(WIDTH + shift, heads + 2 * key_heads, size, device="cuda").to(dtype)

    def attended(first: int, kept: torch.Tensor) -> torch.Tensor:
        at = torch.tensor([start + first], device="cuda")
        some = rows[first : first + WIDTH].contiguous()
        return fused.attend(some, kept, at, heads, scale=0.3, cap=cap, window=window)

    longer = torch.cat([cache, torch.randn_like(cache)], 2)
    assert torch.equal(attended(0, cache)[shift:], attended(shift, longer)[: WIDTH - shift])
    place = start + torch.arange(WIDTH, device="cuda")[:, None]
    key = torch.arange(384, device="cuda")
    seen = (key <= place) & (key > place - (window or 1000))
    keys, values = (part.repeat_interleave(heads // key_heads, 0).float() for part in cache)
    scores = torch.einsum("rhs,hks->hrk", rows[:WIDTH, :heads].float(), keys) * 0.3
    scores = scores if cap is None else cap * torch.tanh(scores / cap)
    mixed = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ values
    expected = mixed.permute(1, 0, 2).reshape(WIDTH, -1)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(attended(0, cache).float(), expected, atol=tolerance, rtol=tolerance)
