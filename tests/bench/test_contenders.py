"""Contenders over one loaded pair of fake models with known answers."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from specgen.bench.contenders import OwnContender, Variant, available, prefill_time
from specgen.bench.report import compare, identical
from specgen.bench.runner import Run
from specgen.bench.suites import SuitePrompt
from specgen.core.errors import UsageError
from specgen.core.tokens import Tokens
from specgen.core.types import EngineOptions, SamplingChoice
from specgen.session.pair import Pair
from specgen.session.session import Session
from tests.fakes import VOCAB, TableModel, encode, fake_session, rounds, tokens_of

PROMPT = encode("the quick brown fox")
GREEDY = SamplingChoice(temperature=0.0, repetition_penalty=1.0, seed=0)
OPTIONS = EngineOptions(num_draft_tokens=3)


class Leaky(TableModel):
    """A target with different scores in wide passes, so that speculation breaks its text."""

    def forward(self, tokens: Tokens, last: int) -> torch.Tensor:
        rows = super().forward(tokens, last)
        return rows.roll(1, -1) if last > 1 else rows


def pair(folder: Path, target: Any, draft: Any = None) -> Pair:
    for model in (target, draft):
        if model is not None:
            model.context_length = 4096
    opened = fake_session(target, folder=folder).pair
    return dataclasses.replace(opened, draft=draft, shared_vocab=VOCAB if draft else 0)


def contender(name: str, over: Pair) -> OwnContender:
    return OwnContender(name, over, Variant(name, OPTIONS, GREEDY))


@pytest.fixture
def target() -> TableModel:
    return TableModel(VOCAB, seed=1)


@pytest.mark.parametrize("name", ["plain", "model", "lookup", "hybrid"])
def test_every_contender_writes_the_plain_text(tmp_path: Path, target: TableModel, name: str) -> None:
    both = pair(tmp_path, target, TableModel(VOCAB, seed=1, noise=0.3))
    made = contender(name, both).run(PROMPT, 20)
    assert list(made.ids) == tokens_of(rounds(target, PROMPT, new=20, end_ids=[0]))
    assert made.stats.generated_tokens == len(made.ids)
    assert made.forwards is not None
    assert (made.forwards[0], len(made.forwards)) == (made.stats.rounds, 2 if name in ("model", "hybrid") else 1)
    assert (made.stats.drafted_tokens > 0) == (name in ("model", "hybrid")) or name == "lookup"


def test_every_run_reads_its_whole_prompt(tmp_path: Path, target: TableModel) -> None:
    """Nothing is cached from the run before."""
    draft = TableModel(VOCAB, seed=2)
    made = contender("model", pair(tmp_path, target, draft))
    made.run(PROMPT, 4)
    first = target.fed, draft.fed
    made.run(PROMPT, 4)
    assert (target.fed, draft.fed) == (2 * first[0], 2 * first[1])
    assert target.fed > 2 * len(PROMPT)


def test_a_prompt_that_begins_with_the_token_of_forgetting_is_read_too(tmp_path: Path, target: TableModel) -> None:
    for first in (0, 1):
        before = target.fed
        prefill_time(target, [first, *PROMPT])
        prefill_time(target, [first, *PROMPT])
        assert target.fed - before == 2 * (1 + len([first, *PROMPT]))


def test_time_in_forward_passes_is_a_part_of_drafting_and_verifying(tmp_path: Path, target: TableModel) -> None:
    made = contender("model", pair(tmp_path, target, TableModel(VOCAB, seed=1, noise=0.3))).run(PROMPT, 20).decoding
    assert made is not None
    assert 0 < made.forward_s < made.draft_s + made.verify_s < made.elapsed_s


def test_a_drafter_that_changes_the_text_is_found_out(tmp_path: Path) -> None:
    leaky = Leaky(VOCAB, seed=1)
    contenders = [contender(name, pair(tmp_path, leaky, TableModel(VOCAB, seed=1))) for name in ("plain", "model")]
    prompt = SuitePrompt("a", "chat", "x")
    table = compare(contenders, [Run(each.name, prompt, 0, each.run(PROMPT, 20)) for each in contenders])
    assert not identical(table)
    assert (table["plain"]["same_text"], table["model"]["same_text"]) == (1, 0)


def test_sampled_runs_of_one_seed_are_the_same_text(tmp_path: Path, target: TableModel) -> None:
    both = pair(tmp_path, target, TableModel(VOCAB, seed=1, noise=0.3))
    sampling = SamplingChoice(temperature=1.0, repetition_penalty=1.0, seed=5)
    texts = {OwnContender(name, both, Variant(name, OPTIONS, sampling)).run(PROMPT, 20).ids for name in available(both)}
    assert len(texts) == 1


def test_only_drafters_that_the_pair_has_take_part(tmp_path: Path, target: TableModel) -> None:
    alone = pair(tmp_path, target)
    assert available(alone) == ["plain", "lookup"]
    assert available(pair(tmp_path, target, TableModel(VOCAB))) == ["plain", "model", "lookup", "hybrid"]
    with pytest.raises(UsageError, match="no drafter 'model'; there is: plain, lookup"):
        contender("model", alone)
    target.can_verify = False
    assert available(alone) == ["plain"]


def test_every_answer_starts_with_a_new_controller(
    tmp_path: Path, target: TableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = Session.over
    controllers: list[object] = []

    def watched(*arguments: Any) -> Session:
        session = over(*arguments)
        controllers.append(session._pacing.controller)
        return session

    monkeypatch.setattr(Session, "over", watched)
    lookup = contender("lookup", pair(tmp_path, target))
    lookup.run(PROMPT, 4)
    lookup.run(PROMPT, 4)
    assert controllers[0] is not controllers[1]
