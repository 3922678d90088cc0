"""The compiled decoder: near transformers in every family, and the same bits at every width and number of threads."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from specgen.core.tokens import Tokens
from specgen.core.types import Quant
from specgen.nn.interface import UNNORMED
from specgen.nn.kernels import dots
from specgen.nn.kernels.team import team_of
from specgen.nn.lean import compiled
from specgen.nn.lean.compiled import CompiledModel
from specgen.nn.lean.context_store import ContextStore
from specgen.nn.lean.draft_head import ChosenPanels
from tests.nn.lean.checkpoints import MODELS, VOCAB, load, reference, save
from tests.nn.lean.test_model import IDS, LENGTH, splits

pytestmark = pytest.mark.usefixtures("shelf")


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"), **MODELS[request.param])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("llama"), **MODELS["llama"])


@pytest.fixture(params=dots.available(), ids=lambda each: each.name)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Choose each instruction set of this processor in turn."""
    monkeypatch.setattr(compiled, "available", lambda: [request.param])
    return None


def opened(folder: Path, **options: Any) -> CompiledModel:
    model = load(folder, quant=Quant.INT8, **options)
    assert isinstance(model, CompiledModel)
    return model


def test_every_family_is_near_transformers(folder: Path) -> None:
    logits = reference(folder, IDS[:LENGTH])
    rows = opened(folder).forward(Tokens(IDS[:LENGTH]), LENGTH)
    # Random weights lose more by rounding than trained ones. A wrong norm, rotation or window is far beyond this.
    assert (rows - logits).std() < 0.1 * logits.std()


def test_logits_are_the_same_to_the_bit_however_the_tokens_are_fed(folder: Path) -> None:
    model = opened(folder)
    whole = model.forward(Tokens(IDS[:LENGTH]), LENGTH)
    model.forward(Tokens([3]), 1)
    pieces = [model.forward(Tokens(IDS[:end]), end - start) for start, end in splits(LENGTH, 1)]
    assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.usefixtures("instructions")
def test_the_bits_hold_for_every_instruction_set(llama: Path) -> None:
    whole = opened(llama).forward(Tokens(IDS[:100]), 100)
    model = opened(llama)
    pieces = [model.forward(Tokens(IDS[:end]), end - start) for start, end in splits(100, 2)]
    assert torch.equal(torch.cat(pieces), whole)


def test_the_bits_do_not_depend_on_the_threads(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = opened(llama).forward(Tokens(IDS[:90]), 90)
    for threads in (1, 3, 5):
        monkeypatch.setattr("specgen.nn.lean.load.compute_threads", lambda threads=threads: threads)
        model = opened(llama)
        assert model._team is team_of(threads)
        assert torch.equal(model.forward(Tokens(IDS[:90]), 90), whole)


@pytest.mark.parametrize("head_dim", [64, 80, 128, 256])
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_the_bits_hold_for_real_sizes_and_a_growing_cache(tmp_path: Path, head_dim: int, kind: str) -> None:
    sizes = {"head_dim": head_dim, "hidden_size": 1536, "num_hidden_layers": 1, "max_position_embeddings": 4096}
    model = opened(save(tmp_path, **MODELS[kind] | sizes), context_length=4096)
    ids = random.Random(2).choices(range(VOCAB), k=4096)
    ends = [470, *(470 + sum(range(1, width + 1)) for width in range(1, 17)), 1100, 4080, 4096]
    whole = opened(tmp_path, context_length=4096).forward(Tokens(ids), 4096 - 465)
    pieces, before = [model.forward(Tokens(ids[:470]), 5)], 470
    for end in ends[1:]:
        pieces.append(model.forward(Tokens(ids[:end]), end - before))
        before = end
    assert torch.equal(torch.cat(pieces), whole)


def test_a_rejected_proposal_leaves_no_trace(llama: Path) -> None:
    model = opened(llama)
    context = Tokens(IDS[:70])
    model.forward(context.grow([9, 8, 7, 6]), 5)
    accepted = context.grow([9, 8, 5])
    assert torch.equal(model.forward(accepted, 2), opened(llama).forward(accepted, 2))


def test_kept_contexts_continue_with_the_same_bits(llama: Path) -> None:
    model = opened(llama)
    model.keep_contexts(ContextStore(1 << 30))
    expected = opened(llama).forward(Tokens(IDS[:210]), 1)
    model.forward(Tokens(IDS[:200]), 1)
    model.forward(Tokens([*IDS[:100], *IDS[300:400]]), 1)
    model.forward(Tokens(IDS[500:700]), 1)
    assert torch.equal(model.forward(Tokens(IDS[:210]), 1), expected)


def test_a_token_that_does_not_exist_is_an_error_that_leaves_no_trace(llama: Path) -> None:
    model = opened(llama)
    expected = model.forward(Tokens(IDS[:20]), 20)
    with pytest.raises(IndexError):
        model.forward(Tokens([*IDS[:10], VOCAB]), 1)
    assert torch.equal(model.forward(Tokens(IDS[:20]), 20), expected)


def test_logits_that_are_no_numbers_stay_so(tmp_path: Path) -> None:
    model = opened(save(tmp_path, **MODELS["llama"]))
    model._weights.norm[3] = float("nan")
    assert model.forward(Tokens(IDS[:20]), 3).isnan().all()


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_tapped_states_are_those_of_the_pass(tmp_path: Path, kind: str) -> None:
    """The input of layer k is the UNNORMED state of a model cut after k layers; the last one gives the logits."""
    model = opened(save(tmp_path, **MODELS[kind]))
    layers = len(model._weights.layers)
    plain = model.forward(Tokens(IDS[:300]), 2)
    told: list[tuple[int, list[torch.Tensor]]] = []
    model.forward(Tokens([3]), 1)
    model.tap([layers, 0, 2, UNNORMED], lambda _, start, states: told.append((start, [s.clone() for s in states])))
    assert torch.equal(model.forward(Tokens(IDS[:300]), 2), plain)
    rows = [torch.cat([states[index] for _, states in told]) for index in range(4)]
    assert [len(each) for each in rows] == [300] * 4
    assert torch.equal(rows[1], model.shared.embed(torch.tensor(IDS[:300])))
    torch.testing.assert_close(model.shared.norm(rows[3]), rows[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(model.shared.score(rows[0][-2:]), plain)
    assert not torch.equal(rows[2], rows[3])
    model.tap((), None)
    assert torch.equal(model.forward(Tokens(IDS[:301]), 1), model.forward(Tokens(IDS[:301]), 1))
    assert told[-1][0] < 300


def test_a_draft_scores_frequent_tokens_and_those_it_has_read(tmp_path: Path) -> None:
    save(tmp_path, **MODELS["llama"] | {"vocab_size": 320})
    whole = opened(tmp_path)
    draft = CompiledModel(
        whole._architecture, whole._weights, 1024, whole._team, ChosenPanels(len(whole._weights.head.panels.levels), 64)
    )
    context = Tokens([5, 100, 319, 7])
    expected, found = whole.forward(context, 2), draft.forward(context, 2)
    scored = [*range(64), *range(96, 112), *range(304, 320)]
    assert torch.equal(found[:, scored], expected[:, scored])
    assert found.isfinite().sum(-1).tolist() == [len(scored)] * 2
    draft.forward(Tokens([*range(0, 192, 16)]), 12)  # more than twice the frequent ones
    assert draft.forward(Tokens([300]), 1).isfinite().sum() == 80
