"""What `specgen tune` found: kept, found again for the same weights and machine, and used for what was left open."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from specgen import tuned as tuned_module
from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.errors import BadFile
from specgen.core.events import Finished, Notice, Started
from specgen.core.types import EngineOptions, ModelRef, Quant
from specgen.session.session import Session
from specgen.tuned import Tuned, Weights, all_tuned, find_tuned, in_options, machine, save, weights

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECGEN_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture
def pair(checkpoints: Any) -> tuple[Checkpoint, Checkpoint]:
    folders = checkpoints.target("llama"), checkpoints.draft("llama")
    target, draft = (Checkpoint(ModelRef(str(folder)), folder) for folder in folders)
    return target, draft


def found(pair: tuple[Checkpoint, Checkpoint], **changes: Any) -> Tuned:
    """Four tokens a round, without lookup, on this machine."""
    target, draft = pair
    made = Tuned(
        weights(target), weights(draft), machine(CPU), 4, False, None, Quant.AUTO, 1.2, (1.1, 1.3), "2026-11-24", "1"
    )
    return dataclasses.replace(made, **changes)


def started(session: Session) -> tuple[Started, list[str]]:
    """How a session starts an answer, and what it says before."""
    events = list(session.generate("the quick brown fox", raw=True, max_new_tokens=3))
    assert isinstance(events[-1], Finished), events[-1]
    (start,) = (event for event in events if isinstance(event, Started))
    return start, [event.text for event in events if isinstance(event, Notice)]


def session_over(pair: tuple[Checkpoint, Checkpoint], draft: str | None = None, **options: Any) -> Session:
    target, own = pair
    return Session(str(target.path), draft or str(own.path), EngineOptions(**{"threads": 1, **options}))


def test_it_is_found_again_for_the_same_machine_alone(pair: tuple[Checkpoint, Checkpoint]) -> None:
    target, draft = pair
    save(found(pair))
    assert find_tuned(target, draft, machine(CPU)) == found(pair)
    assert find_tuned(target, draft, "another machine") is None
    assert find_tuned(target, None, machine(CPU)) is None
    assert list(all_tuned(target.ref).values()) == [found(pair)]
    assert all_tuned(draft.ref) == {}


def test_a_session_runs_as_tuned_and_says_so_when_asked(pair: tuple[Checkpoint, Checkpoint]) -> None:
    save(found(pair))
    start, said = started(session_over(pair, verbose=True))
    assert (start.num_draft_tokens, start.drafter) == (4, "model")
    assert "as tuned for this pair and machine: -k 4 --no-lookup (1.20 times as fast as the defaults)" in said
    start, said = started(session_over(pair))
    assert (start.num_draft_tokens, said) == (4, [])


def test_what_was_chosen_stays(pair: tuple[Checkpoint, Checkpoint]) -> None:
    save(found(pair))
    start, _ = started(session_over(pair, num_draft_tokens=2))
    assert (start.num_draft_tokens, start.drafter) == (2, "model")
    start, _ = started(session_over(pair, settled=("num_draft_tokens",)))
    assert (start.num_draft_tokens, start.drafter) == (None, "model")


def test_it_does_not_count_for_other_weights(pair: tuple[Checkpoint, Checkpoint]) -> None:
    target, _ = pair
    save(found(pair, target=Weights(weights(target).id, "others")))
    start, said = started(session_over(pair, verbose=True))
    assert start.num_draft_tokens is None
    assert any("other weights" in text for text in said)


def test_another_draft_in_the_same_session_runs_as_that_was_tuned(pair: tuple[Checkpoint, Checkpoint]) -> None:
    save(found(pair))
    save(found(pair, draft=None, num_draft_tokens=7, lookup=True))
    session = session_over(pair)
    assert started(session)[0].num_draft_tokens == 4
    list(session.change_draft("lookup"))
    start, _ = started(session)
    assert (start.num_draft_tokens, start.drafter) == (7, "lookup")
    list(session.change_draft("none"))
    assert started(session)[0].num_draft_tokens is None


def test_threads_and_quantisation_are_taken_as_far_as_they_were_left_open(
    pair: tuple[Checkpoint, Checkpoint],
) -> None:
    tuned = found(pair, threads=3, quant=Quant.NONE)
    assert tuned.fill_in(EngineOptions()) == EngineOptions(
        threads=3, quant=Quant.NONE, num_draft_tokens=4, lookup=False
    )
    given = EngineOptions(threads=1, dtype="float32", num_draft_tokens=1)  # type: ignore[arg-type]
    assert tuned.fill_in(given) == dataclasses.replace(given, lookup=False), "a dtype settles the number format"
    assert in_options({"threads": 3, "quant": Quant.NONE}) == "--threads 3 --quant none"


def test_one_that_takes_more_memory_than_there_is_does_not_count(
    pair: tuple[Checkpoint, Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    from specgen.session import loading

    plan_pair = loading.plan_pair

    def planned(target: Any, draft: Any, options: EngineOptions, device: Any) -> Any:
        plan = plan_pair(target, draft, options, device)
        return dataclasses.replace(plan, free=0 if options.quant is Quant.NONE else plan.free)

    monkeypatch.setattr(loading, "plan_pair", planned)
    save(found(pair, quant=Quant.NONE))
    assert started(session_over(pair))[0].num_draft_tokens is None


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 0}', None])
def test_a_file_that_somebody_spoilt_is_told_and_does_no_harm(
    pair: tuple[Checkpoint, Checkpoint], text: str | None
) -> None:
    target, draft = pair
    path = save(found(pair, threads=0))
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadFile):
        find_tuned(target, draft, machine(CPU))
    start, said = started(session_over(pair))
    assert start.num_draft_tokens is None
    assert [path.name in text for text in said] == [True]
    assert all_tuned(target.ref) == {}


def test_a_model_of_the_hub_is_known_by_its_commit(pair: tuple[Checkpoint, Checkpoint]) -> None:
    target, _ = pair
    of_hub = Checkpoint(ModelRef("org/name", "main"), target.path, "0123")
    assert weights(of_hub) == Weights("org/name", "0123")
    assert tuned_module.name_of(ModelRef("org/name", "v2")) == "org/name"
    assert tuned_module.name_of(ModelRef("bundled:stories/target")) == "bundled:stories/target"
    assert tuned_module.name_of(ModelRef(str(target.path))) == str(target.path.resolve())
