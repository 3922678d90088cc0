"""The search, over a tiny pair whose speeds are made up."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from specgen.bench.measure import Measurement
from specgen.bench.tuning import Setting, TuneSettings, Tuning, tune
from specgen.core.errors import UsageError
from specgen.core.progress import follow
from specgen.core.types import EngineOptions, Quant
from specgen.nn.kernels.int8 import choose_kernel
from tests.bench.made_up import measurement

Speed = Callable[[dict[str, Any], int], float]
"""The changes of a setting and the number of its answer, from 1, to tokens a second."""


@pytest.fixture
def search(checkpoints: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Tuning]]:
    suite = tmp_path / "suite.jsonl"
    suite.write_text("".join(f'{{"prompt": "the quick {word}"}}\n' for word in "abcdefgh"))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)

    def made(
        speed: Speed, *, ids: Speed = lambda *_: 5, first_s: Speed = lambda *_: 1.0, draft: str = "", **changes: Any
    ) -> Tuning:
        answers: dict[Setting, int] = {}

        def answer(self: Setting, prompt: Sequence[int], new: int) -> Measurement:
            answers[self] = number = answers.get(self, 0) + 1
            given = dict(self.changes), number
            return measurement(speed(*given), ids=(1, 2, 3, 4, int(ids(*given))), first_s=first_s(*given))

        monkeypatch.setattr(Setting, "run", answer)
        draft = draft or str(checkpoints.draft("llama"))
        settings = TuneSettings(str(checkpoints.target("llama")), draft, suite=str(suite), **changes)
        return follow(tune(settings), lambda _: None)

    yield made
    torch.set_num_threads(threads)


def options_of(tuning: Tuning) -> dict[str, list[str]]:
    return {axis: [result.options for result in race] for axis, race in tuning.races.items() if axis != "quant"}


def test_the_fastest_length_is_kept_and_goes_into_the_other_races(search: Any) -> None:
    tuning = search(lambda changes, _: 13.0 if changes.get("num_draft_tokens") == 4 else 10.0)
    assert options_of(tuning) == {
        "num_draft_tokens": ["-k 2", "-k 4", "-k 8"],
        "lookup": ["-k 4", "-k 4 --no-lookup"],
        "threads": ["-k 4", "-k 4 --threads 1"],
    }
    assert tuning.last.options == "-k 4"
    assert tuning.tuned.num_draft_tokens == 4
    assert (tuning.tuned.lookup, tuning.tuned.threads, tuning.tuned.quant) == (True, None, Quant.AUTO)
    assert tuning.tuned.speed_up == pytest.approx(1.3)


def test_what_is_no_faster_leaves_the_defaults(search: Any) -> None:
    tuning = search(lambda *_: 10.0)
    assert tuning.last is None
    assert (tuning.tuned.num_draft_tokens, tuning.tuned.speed_up) == (None, None)


def test_who_won_a_race_by_luck_is_not_kept(search: Any) -> None:
    """The last race begins anew: its answers are the first of new settings, slower than those that won."""
    races: list[int] = []

    def speed(changes: dict[str, Any], number: int) -> float:
        if changes != {"num_draft_tokens": 4}:
            return 10.0
        races.append(number)
        return 20.0 if races.count(1) <= 3 else 10.0

    tuning = search(speed)
    assert tuning.races["num_draft_tokens"][1].speed_up == pytest.approx(2.0)
    assert (tuning.last.options, tuning.last.speed_up) == ("-k 4", pytest.approx(1.0))
    assert tuning.tuned.speed_up is None


def test_another_text_is_never_chosen(search: Any) -> None:
    tuning = search(
        lambda changes, _: 20.0 if "threads" in changes else 10.0,
        ids=lambda changes, _: 6 if "threads" in changes else 5,
    )
    (threads,) = tuning.races["threads"]
    assert (threads.speed_up, threads.same_text) == (pytest.approx(2.0), False)
    assert tuning.tuned.speed_up is None


def test_one_whose_first_token_is_much_later_is_not_kept(search: Any) -> None:
    slow = {"threads": 1}
    tuning = search(
        lambda changes, _: 20.0 if changes == slow else 10.0, first_s=lambda changes, _: 2.0 if changes == slow else 1.0
    )
    assert tuning.last.promptness == pytest.approx(0.5)
    assert tuning.tuned.speed_up is None


def test_one_that_loses_much_on_some_prompts_is_not_kept(search: Any) -> None:
    tuning = search(lambda changes, number: (5.0 if number % 8 == 3 else 20.0) if "lookup" in changes else 10.0)
    assert tuning.last.speed_up == pytest.approx(2.0)
    assert tuning.tuned.speed_up is None


def test_without_time_nothing_is_said(search: Any) -> None:
    tuning = search(lambda changes, _: 20.0 if changes else 10.0, minutes=0.0)
    assert (tuning.tuned, tuning.last) == (None, None)


def test_what_is_given_stays(search: Any) -> None:
    tuning = search(lambda *_: 10.0, engine=EngineOptions(num_draft_tokens=3, settled=("threads", "quant")))
    assert options_of(tuning) == {"lookup": ["--no-lookup"]}
    assert "quant" not in tuning.races


def test_lookup_alone_has_lengths_to_tune_and_a_pair_without_drafter_nothing(search: Any) -> None:
    tuning = search(lambda *_: 10.0, draft="lookup", engine=EngineOptions(settled=("threads", "quant")))
    assert options_of(tuning) == {"num_draft_tokens": ["-k 2", "-k 4", "-k 8"]}
    assert tuning.tuned.draft is None
    with pytest.raises(UsageError, match="nothing to tune"):
        search(lambda *_: 10.0, draft="none")


@pytest.mark.skipif(choose_kernel() is None, reason="this processor has no exact int8 kernel")
def test_another_quantisation_is_measured_and_taken_only_when_that_is_allowed(search: Any) -> None:
    def speed(changes: dict[str, Any], number: int) -> float:
        return 20.0 if "quant" in changes else 10.0

    def other(changes: dict[str, Any], number: int) -> int:
        return 6 if "quant" in changes else 5

    tuning = search(speed, ids=other)
    assert tuning.other_quant.speed_up == pytest.approx(2.0)
    assert (tuning.tuned.quant, tuning.tuned.speed_up) == (Quant.AUTO, None)
    tuning = search(speed, ids=other, allow_quant=True)
    assert (tuning.tuned.quant, tuning.tuned.speed_up) == (Quant.INT8, pytest.approx(2.0))


def test_the_threads_are_as_before(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def speed(changes: dict[str, Any], number: int) -> float:
        torch.set_num_threads(1)
        return 10.0

    search(speed)
    assert torch.get_num_threads() == 2
