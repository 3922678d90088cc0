"""A head is named like any other draft, and what is wrong with one is said."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from specgen.core.errors import DraftMismatch, UsageError
from specgen.core.events import Event, Failed, Finished, Notice, Started
from specgen.core.types import EngineOptions, SamplingChoice
from specgen.session.session import Session
from tests.checkpoints import Checkpoints
from tests.fakes import VOCAB
from tests.heads import LAYERS, random_tensors, write_head
from tests.nn.heads import rigged

PROMPT = "the quick brown fox"
SEEDED = SamplingChoice(temperature=1.0, seed=3)


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("rigged")
    target = rigged.write_target(folder / "target")
    return str(target), str(write_head(folder / "head", "speculators", rigged.head_tensors()))


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("wrong")
    target = Checkpoints(folder).make("six", "llama", num_hidden_layers=LAYERS)
    return str(target), str(write_head(folder / "head", "pickled", random_tensors(VOCAB)))


def answer(session: Session, sampling: SamplingChoice | None = None) -> tuple[list[Event], Finished]:
    events = list(session.generate(PROMPT, raw=True, max_new_tokens=60, sampling=sampling))
    assert isinstance(events[-1], Finished), events[-1]
    return events, events[-1]


def notices(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


@pytest.mark.parametrize("lookup", [False, True])
def test_a_head_drafts_like_any_other_draft(right: tuple[str, str], lookup: bool) -> None:
    _, plain = answer(Session(right[0], "none"))
    session = Session(*right, EngineOptions(num_draft_tokens=3, lookup=lookup))
    events, done = answer(session)
    started = next(event for event in events if isinstance(event, Started))
    assert (done.text, started.drafter) == (plain.text, "hybrid" if lookup else "model")
    assert started.draft is not None
    assert done.stats.accepted_tokens == done.stats.drafted_tokens > 40
    assert not notices(events)


def test_a_draft_is_changed_to_a_head_and_back(right: tuple[str, str]) -> None:
    session = Session(right[0], "none", EngineOptions(num_draft_tokens=3, lookup=False))
    _, plain = answer(session)
    list(session.change_draft(right[1]))
    _, drafted = answer(session)
    assert drafted.text == plain.text
    assert drafted.stats.accepted_tokens == drafted.stats.drafted_tokens > 40
    list(session.change_draft("none"))
    _, again = answer(session)
    assert (again.text, again.stats.drafted_tokens) == (plain.text, 0)


@pytest.mark.parametrize("sampling", [None, SEEDED], ids=["greedy", "seeded"])
def test_a_head_that_hardly_guesses_is_named_once(wrong: tuple[str, str], sampling: SamplingChoice | None) -> None:
    _, plain = answer(Session(wrong[0], "none"), sampling)
    session = Session(*wrong, EngineOptions(num_draft_tokens=2, lookup=False))
    events, done = answer(session, sampling)
    assert done.text == plain.text
    said = [text for text in notices(events) if "hardly guesses" in text]
    assert len(said) == 1
    assert "first tokens were right; likely it was trained for another target" in said[0]
    assert not [text for text in notices(answer(session, sampling)[0]) if "hardly" in text]


def test_what_does_not_fit_is_refused_before_anything_is_generated(right: tuple[str, str], tmp_path: Path) -> None:
    def failure(events: Iterator[Event]) -> Exception:
        last = list(events)[-1]
        assert isinstance(last, Failed)
        return last.error

    error = failure(Session(right[1]).generate(PROMPT, raw=True))
    assert isinstance(error, UsageError)
    assert "is a head, which only drafts" in str(error)
    small = Checkpoints(tmp_path).make("four", "llama", num_hidden_layers=2)
    error = failure(Session(str(small), right[1]).generate(PROMPT, raw=True))
    assert isinstance(error, DraftMismatch)
    assert "reads layer 3 and the target has 2" in str(error)
