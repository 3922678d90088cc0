"""Greedy output equals that of transformers token by token, for all architectures, drafters and draft lengths."""

from pathlib import Path
from typing import Any

import pytest

from specgen import Session
from specgen.core.errors import UnsupportedModel
from specgen.core.events import Event, Failed, Finished, Notice, Started
from specgen.core.types import EngineOptions
from specgen.nn.lean.model import LeanModel
from tests.checkpoints import ARCHITECTURES, RECURRENT, UNUSUAL, WINDOW
from tests.fakes import encode, steps, tokens_of

PROMPT = "the quick brown fox jumps over the lazy dog and the lazy dog sleeps over there, hello"
NEW = 44
DRAFTERS = [("none", 0), ("lookup", 1), ("lookup", 4), ("similar", 2), ("similar", 4)]
CANNOT_DRAFT = ("mamba",)
"""transformers' Mamba drops its state when it is fed several tokens at once."""


# Our own decoder runs these; transformers runs all.
LEAN = ("llama", "qwen2", "qwen3", "mistral", "gemma3", "phi3")
RUNNERS = [*((name, "own") for name in LEAN), *((name, "transformers") for name in ARCHITECTURES)]


@pytest.fixture
def on_runner(request: pytest.FixtureRequest) -> str:
    """The architecture of a pair of `RUNNERS`, with the runner chosen."""
    architecture, runner = request.param
    if runner == "transformers":
        request.getfixturevalue("through_transformers")
    return str(architecture)


def session(checkpoints: Any, architecture: str, drafter: str, k: int) -> Session:
    target = checkpoints.target(architecture)
    draft = {"itself": str(target), "similar": str(checkpoints.draft(architecture))}.get(drafter, drafter)
    return Session(str(target), draft, EngineOptions(num_draft_tokens=k, lookup=False, threads=1))


def check_invariants(events: list[Event], k: int) -> None:
    for step in steps(events):
        assert 0 <= step.accepted <= step.drafted <= k
        assert len(step.tokens) <= step.accepted + 1


@pytest.mark.parametrize(("drafter", "k"), DRAFTERS)
@pytest.mark.parametrize("on_runner", RUNNERS, indirect=True, ids="-".join)
def test_greedy_is_transformers_own(checkpoints: Any, reference: Any, on_runner: str, drafter: str, k: int) -> None:
    architecture = on_runner
    prompt = encode(PROMPT)
    assert len(prompt) > WINDOW
    expected = reference(checkpoints.target(architecture), prompt, NEW)
    assert len(expected) == NEW
    assert len(set(expected)) > 5
    events = list(session(checkpoints, architecture, drafter, k).generate(PROMPT, raw=True, max_new_tokens=NEW))
    assert tokens_of(events) == expected
    check_invariants(events, k)
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "length"
    if architecture in CANNOT_DRAFT or drafter == "none":
        assert finished.stats.drafted_tokens == 0
    else:
        assert finished.stats.drafted_tokens > 0
    if architecture in CANNOT_DRAFT and drafter != "none":
        assert any(isinstance(event, Notice) and "nothing is drafted" in event.text for event in events)
        assert next(event for event in events if isinstance(event, Started)).drafter == "none"
    elif (drafter, k) == ("similar", 4):
        # A draft that is always or never right would prove little.
        assert 0.1 < finished.stats.acceptance_rate < 0.99


@pytest.mark.parametrize("drafter", ["none", "lookup", "similar"])
@pytest.mark.parametrize("architecture", [name for name in UNUSUAL if name != "minimax"])
def test_models_that_break_the_rules_say_the_same(
    checkpoints: Any, reference: Any, architecture: str, drafter: str
) -> None:
    events = list(session(checkpoints, architecture, drafter, 4).generate(PROMPT, raw=True, max_new_tokens=NEW))
    assert tokens_of(events) == reference(checkpoints.target(architecture), encode(PROMPT), NEW)


def test_a_model_that_cannot_be_run_is_named(checkpoints: Any) -> None:
    events = list(session(checkpoints, "minimax", "none", 4).generate(PROMPT, raw=True, max_new_tokens=NEW))
    assert isinstance(events[-1], Failed)
    assert isinstance(events[-1].error, UnsupportedModel)


@pytest.mark.parametrize("drafter", ["none", "lookup", "similar"])
def test_nothing_is_drafted_with_a_draft_length_of_zero(checkpoints: Any, reference: Any, drafter: str) -> None:
    events = list(session(checkpoints, "llama", drafter, 0).generate(PROMPT, raw=True, max_new_tokens=NEW))
    assert tokens_of(events) == reference(checkpoints.target("llama"), encode(PROMPT), NEW)
    assert all((step.drafted, len(step.tokens)) == (0, 1) for step in steps(events))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_runners_are_those_that_these_tests_mean(checkpoints: Any, architecture: str) -> None:
    pair = session(checkpoints, architecture, "none", 0)
    list(pair.open())
    assert isinstance(pair.pair.target, LeanModel) == (architecture in LEAN)


@pytest.mark.parametrize("k", [1, 2, 4, 7])
@pytest.mark.parametrize(
    "on_runner", [pair for pair in RUNNERS if pair[0] not in CANNOT_DRAFT], indirect=True, ids="-".join
)
def test_drafting_with_the_target_itself_accepts_everything(
    checkpoints: Any, reference: Any, on_runner: str, k: int
) -> None:
    architecture, new = on_runner, 3 * (k + 1)
    events = list(session(checkpoints, architecture, "itself", k).generate(PROMPT, raw=True, max_new_tokens=new))
    assert [(step.drafted, step.accepted, len(step.tokens)) for step in steps(events)] == [(k, k, k + 1)] * 3
    assert tokens_of(events) == reference(checkpoints.target(architecture), encode(PROMPT), NEW)[:new]


@pytest.mark.parametrize(("target", "draft"), [("llama", "gpt2"), ("llama", "mamba"), ("gpt2", "hybrid")])
def test_a_draft_of_another_architecture(checkpoints: Any, reference: Any, target: str, draft: str) -> None:
    folder = checkpoints.target(target)
    pair = Session(str(folder), str(checkpoints.draft(draft)), EngineOptions(num_draft_tokens=3, threads=1))
    events = list(pair.generate(PROMPT, raw=True, max_new_tokens=NEW))
    assert tokens_of(events) == reference(folder, encode(PROMPT), NEW)
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.stats.drafted_tokens > 0


@pytest.mark.parametrize(("target_rows", "draft_rows"), [(352, 320), (320, 352)])
def test_embeddings_padded_to_different_sizes(
    checkpoints: Any, reference: Any, target_rows: int, draft_rows: int
) -> None:
    """Rows beyond the tokenizer: no model may propose or read an id without a row in the other model."""
    folder = checkpoints.make(f"padded-{target_rows}", "llama", vocab_size=target_rows)
    draft = checkpoints.make(f"padded-draft-{draft_rows}", "llama", vocab_size=draft_rows, noise=0.05)
    pair = Session(str(folder), str(draft), EngineOptions(num_draft_tokens=3, threads=1))
    events = list(pair.generate(PROMPT, raw=True, max_new_tokens=NEW))
    assert tokens_of(events) == reference(folder, encode(PROMPT), NEW)


@pytest.mark.parametrize("drafter", ["none", "lookup", "itself", "similar"])
@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_a_recommended_repetition_penalty_applies_to_greedy(
    checkpoints: Any, reference: Any, architecture: str, drafter: str
) -> None:
    prompt = encode(PROMPT)
    plain = checkpoints.target(architecture)
    folder = checkpoints.make(f"{architecture}-penalty", architecture, generation={"repetition_penalty": 1.4})
    draft = {"itself": str(folder), "similar": str(checkpoints.draft(architecture))}.get(drafter, drafter)
    options = EngineOptions(num_draft_tokens=4, threads=1)
    events = list(Session(str(folder), draft, options).generate(PROMPT, raw=True, max_new_tokens=NEW))
    assert tokens_of(events) == reference(folder, prompt, NEW)
    assert tokens_of(events) != reference(plain, prompt, NEW)
    check_invariants(events, 4)


@pytest.mark.parametrize("drafter", ["none", "itself"])
def test_several_end_tokens(checkpoints: Any, reference: Any, drafter: str) -> None:
    prompt = encode(PROMPT)
    plain = reference(checkpoints.target("llama"), prompt, NEW)
    # The first occurrence of a token far into the text, an early and a late one.
    ends = [plain[25], plain[14]]
    first = min(plain.index(end) for end in ends)
    folder = checkpoints.make("llama-ends", "llama", generation={"eos_token_id": ends})
    draft = str(folder) if drafter == "itself" else drafter
    events = list(
        Session(str(folder), draft, EngineOptions(num_draft_tokens=7, threads=1)).generate(
            PROMPT, raw=True, max_new_tokens=NEW
        )
    )
    assert tokens_of(events) == plain[: first + 1] == reference(folder, prompt, NEW)
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "end"
    check_invariants(events, 7)


@pytest.mark.parametrize("architecture", ["llama", "mistral", *RECURRENT])
def test_a_long_prompt_is_fed_in_chunks(
    checkpoints: Any, reference: Any, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specgen.nn.transformers.model._CHUNK", 10)
    folder: Path = checkpoints.target(architecture)
    pair = Session(str(folder), "lookup", EngineOptions(threads=1))
    events = list(pair.generate(PROMPT, raw=True, max_new_tokens=NEW))
    assert tokens_of(events) == reference(folder, encode(PROMPT), NEW)
