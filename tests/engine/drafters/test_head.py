"""A head drafts for a target: the text stays the same, every convention holds, and a slip would be seen."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.checkpoint.drafter_format import HeadFormat
from specgen.core.progress import follow
from specgen.core.tokens import Tokens
from specgen.core.types import ModelRef, SamplingParams
from specgen.engine.decode import Limits, Round, decode
from specgen.engine.drafters.head import HeadDrafter
from specgen.engine.drafters.interface import Drafter, DraftPlan, NoDrafter
from specgen.engine.pacing.controller import FixedController
from specgen.engine.sampling.sampler import Sampler
from specgen.nn.device import Placement
from specgen.nn.heads import load
from specgen.nn.heads.eagle import EagleHead
from specgen.nn.heads.load import load_head, tapped_states
from specgen.nn.heads.reader import HeadReader
from specgen.nn.interface import Runner
from specgen.nn.lean.load import load_decoder, read_checkpoint_architecture
from specgen.nn.transformers.model import TransformersModel
from tests.checkpoints import Checkpoints
from tests.fakes import VOCAB
from tests.heads import LAYERS, LAYOUTS, kept_ids, random_tensors, write_head
from tests.nn.heads import rigged

PLACEMENT = Placement(torch.device("cpu"), torch.float32)
IDS = random.Random(2).choices(kept_ids(VOCAB).tolist(), k=400)
GREEDY = SamplingParams(temperature=0)
SEEDED = SamplingParams(temperature=1.0, top_p=0.95, seed=7)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random target with as many layers as the heads are made for."""
    return Checkpoints(tmp_path_factory.mktemp("models")).make("six", "llama", num_hidden_layers=LAYERS)


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A target and a head that guesses every token right: see tests/nn/heads/rigged.py."""
    folder = tmp_path_factory.mktemp("rigged")
    return rigged.write_target(folder / "target"), write_head(folder / "head", "official", rigged.head_tensors())


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(ModelRef(str(folder)), folder)


def lean(folder: Path) -> Runner:
    found = checkpoint(folder)
    architecture = read_checkpoint_architecture(found)
    assert not isinstance(architecture, str), architecture
    return follow(load_decoder(found, architecture, PLACEMENT, 512), lambda _: None)


def transformers(folder: Path) -> Runner:
    return TransformersModel(AutoModelForCausalLM.from_pretrained(folder).eval())


def reader(folder: Path, runner: Runner) -> HeadReader:
    found = checkpoint(folder)
    shared = runner.shared
    head = load_head(found, shared, runner.vocab_size, PLACEMENT)
    return HeadReader(head, runner, tapped_states(found, shared))


def rounds(
    runner: Runner, drafter: Drafter, prompt: Sequence[int], params: SamplingParams, length: int, new: int = 40
) -> Iterator[Round]:
    context = Tokens(prompt)
    limits = Limits(len(prompt) + new, "length", frozenset())
    return decode(runner, drafter, context, Sampler(params, len(prompt)), limits, FixedController(length))


def generated(done: Iterator[Round]) -> list[int]:
    return [token for each in done for token in each.tokens]


@pytest.mark.parametrize("params", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("runner", [lean, transformers])
def test_the_text_is_the_same_at_every_draft_length(
    target: Path, tmp_path: Path, runner: Callable[[Path], Runner], params: SamplingParams
) -> None:
    head = write_head(tmp_path / "head", "official", random_tensors(VOCAB))
    model = runner(target)
    plain = generated(rounds(model, NoDrafter(), IDS[:30], params, 1))
    drafter = HeadDrafter(reader(head, model))
    for length in (1, 2, 4, 7):
        assert generated(rounds(model, drafter, IDS[:30], params, length)) == plain


def oracle(folder: Path, tensors: dict[str, torch.Tensor], ids: Sequence[int], chain: Sequence[int]) -> torch.Tensor:
    """The scores [1 + chain, vocabulary of the head], without a cache: from the formulas, on transformers' states."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        hidden_states = model(torch.tensor([list(ids)]), output_hidden_states=True).hidden_states
        embedding = model.get_input_embeddings()
        hidden = torch.cat([hidden_states[k][0, :-1] for k in (2, 3, 3)], -1) @ tensors["fc.weight"].T
        following = list(ids[1:])
        rows = []
        for token in [*chain, None]:
            out = _layer(tensors, hidden, embedding(torch.tensor(following)))
            rows.append(_rms(out[-1], tensors["norm.weight"]) @ tensors["lm_head.weight"].T)
            if token is not None:
                hidden, following = torch.cat([hidden, out[-1:]]), [*following, token]
    return torch.stack(rows)


def _layer(tensors: dict[str, torch.Tensor], hidden: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
    part = {name.removeprefix("layers.0."): tensor for name, tensor in tensors.items()}
    e = _rms(embedded, part["input_layernorm.weight"])
    joined = torch.cat([e, _rms(hidden, part["hidden_norm.weight"])], -1)
    n = len(joined)
    angles = torch.arange(n)[:, None] * 10_000.0 ** (-torch.arange(0, 8, 2) / 8)
    turn = torch.polar(torch.ones_like(angles), angles)
    mixed = torch.zeros(n, 32)
    for head in range(4):
        group = head // 2
        q, k = (
            _turned(joined @ part[f"self_attn.{name}_proj.weight"][8 * at : 8 * at + 8].T, turn)
            for name, at in (("q", head), ("k", group))
        )
        v = joined @ part["self_attn.v_proj.weight"][8 * group : 8 * group + 8].T
        scores = (q @ k.T / 8**0.5).masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf)
        mixed[:, 8 * head : 8 * head + 8] = scores.softmax(-1) @ v
    attended = hidden + mixed @ part["self_attn.o_proj.weight"].T
    x = _rms(attended, part["post_attention_layernorm.weight"])
    gate = torch.nn.functional.silu(x @ part["mlp.gate_proj.weight"].T) * (x @ part["mlp.up_proj.weight"].T)
    return attended + gate @ part["mlp.down_proj.weight"].T


def _rms(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def _turned(x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    pairs = torch.complex(x[:, :4], x[:, 4:]) * turn
    return torch.cat([pairs.real, pairs.imag], -1)


def chain_scores(read: HeadReader, context: Tokens, chain: Sequence[int]) -> torch.Tensor:
    """The head's scores after `context` and after each token of `chain`, of the tokens that it can propose."""
    output, _ = read.begin(context, len(context))
    rows = [read.scores(output)]
    for count in range(len(chain)):
        output = read.step(context + tuple(chain[: count + 1]), output)
        rows.append(read.scores(output))
    return torch.cat(rows)


CHAIN = (4, 8, 10)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_scores_as_the_formulas_do(target: Path, tmp_path: Path, layout: str) -> None:
    tensors = random_tensors(VOCAB)
    model = lean(target)
    read = reader(write_head(tmp_path / "head", layout, tensors), model)
    context = Tokens(IDS[:50])
    model.forward(context.prefix(49), 1)
    scores = chain_scores(read, context, CHAIN)
    expected = oracle(target, tensors, IDS[:50], CHAIN)
    torch.testing.assert_close(scores[:, kept_ids(VOCAB)], expected, atol=2e-3, rtol=2e-3)
    missing = [token for token in range(VOCAB) if token % 3 == 0]
    assert bool(scores[:, missing].isneginf().all())


@pytest.mark.parametrize("seed", range(4))
def test_a_proposal_does_not_depend_on_what_came_before(target: Path, tmp_path: Path, seed: int) -> None:
    """Accepted and rejected tokens, contexts that branch, are cut or are new, and readings of a part of the context."""
    head = write_head(tmp_path / "head", "official", random_tensors(VOCAB))
    model, fresh_model = lean(target), lean(target)
    read = reader(head, model)
    dice = random.Random(seed)
    context = Tokens(IDS[:20])
    model.forward(context, 1)
    for _ in range(25):
        move = dice.choice(["accept", "accept", "reject", "cut", "branch", "new", "partly"])
        drafted = tuple(dice.choices(IDS, k=3))
        if move in ("accept", "reject", "partly"):
            context = context.grow([dice.choice(IDS)])
            output, _ = read.begin(context, 2 if move == "partly" else len(context))
            read.step(context + drafted[:1], output)
            model.forward(context + drafted, 4)
            context = context.grow(drafted[: 3 if move == "accept" else dice.randrange(3)])
        elif move == "cut":
            context = context.prefix(max(10, len(context) - dice.randrange(1, 30)))
            model.forward(context, 1)
        else:
            kept = dice.randrange(1, len(context)) if move == "branch" else 0
            context = Tokens([*context.ids()[:kept], *dice.choices(IDS, k=dice.randrange(8, 60))])
            model.forward(context, 1)
    context = context.grow([dice.choice(IDS)])
    model.forward(context, 1)
    context = context.grow([dice.choice(IDS)])
    fresh = reader(head, fresh_model)
    fresh_model.forward(context.prefix(len(context) - 1), 1)
    expected = chain_scores(fresh, context, CHAIN)
    torch.testing.assert_close(chain_scores(read, context, CHAIN), expected, atol=1e-3, rtol=1e-3)


def test_a_head_begins_in_the_middle_of_a_context_whose_prefix_was_cached(right: tuple[Path, Path]) -> None:
    """The states of a cached prefix are missing. This head looks at one position, so it misses nothing."""
    model = lean(right[0])
    model.forward(Tokens(IDS[:40]), 1)
    drafter = HeadDrafter(reader(right[1], model))
    done = list(rounds(model, drafter, IDS[:50], GREEDY, 3))
    assert [each.drafted for each in done[:2]] == [0, 3]
    assert all(each.accepted == each.drafted for each in done)


def test_nothing_is_drafted_before_the_target_has_read_anything(right: tuple[Path, Path]) -> None:
    drafter = HeadDrafter(reader(right[1], lean(right[0])))
    assert drafter.propose(Tokens(IDS[:5]), DraftPlan(3, Sampler(GREEDY, 5))).tokens == ()


@pytest.mark.parametrize("runner", [lean, transformers])
def test_a_head_whose_conventions_hold_is_right_about_every_token(
    right: tuple[Path, Path], runner: Callable[[Path], Runner]
) -> None:
    assert share_accepted(right, runner) == 1


def share_accepted(right: tuple[Path, Path], runner: Callable[[Path], Runner] = lean) -> float:
    model = runner(right[0])
    done = list(rounds(model, HeadDrafter(reader(right[1], model)), IDS[:20], GREEDY, 3))
    assert generated(iter(done)) == generated(rounds(model, NoDrafter(), IDS[:20], GREEDY, 1))
    return sum(each.accepted for each in done) / sum(each.drafted for each in done)


def _shift_layers(by: int) -> Callable[[pytest.MonkeyPatch], None]:
    whole = HeadFormat.layers_read

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(HeadFormat, "layers_read", lambda *given: tuple(layer + by for layer in whole(*given)))

    return patch


def _unshifted_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = HeadReader._feed

    def feed(self: HeadReader, start: int, hidden: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
        before = self._known.ids(start)[0] if start < len(self._known) else ids[0] - 1
        return whole(self, start, hidden, [before, *ids[:-1]])

    monkeypatch.setattr(HeadReader, "_feed", feed)


def _d2t_as_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_target_ids", lambda tensors, *_: tensors["d2t"])


def _normed_states(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = EagleHead.read
    monkeypatch.setattr(EagleHead, "read", lambda self, states: whole(self, [self._norm(s, None) for s in states]))


@pytest.mark.parametrize(
    "slip",
    [_shift_layers(1), _shift_layers(-1), _unshifted_ids, _d2t_as_index, _normed_states],
    ids=["layers + 1", "layers - 1", "ids not shifted", "d2t read as an index", "states normed"],
)
def test_a_slip_in_a_convention_would_be_seen(
    right: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, slip: Callable[[pytest.MonkeyPatch], None]
) -> None:
    slip(monkeypatch)
    assert share_accepted(right) < 0.2
