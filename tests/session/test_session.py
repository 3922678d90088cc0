"""Session: the start, the end, the failure and the early close of a generation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from specgen import Session
from specgen.core.errors import BadFile, DraftMismatch, OutOfMemory, PromptTooLong, UsageError
from specgen.core.events import Failed, Finished, Notice, Progress, Started, Step
from specgen.core.tokens import Tokens
from specgen.core.types import EngineOptions, SamplingChoice
from specgen.engine.pacing.controller import FixedController
from tests.fakes import VOCAB, Speaker, TableModel, always_wrong, encode, fake_session, oracle, steps, tokens_of

PROMPT = "the lazy dog"
PROMPT_IDS = encode(PROMPT)


def speaking(folder: Path, text: str, *, k: int = 4, right: bool = True, **options: Any) -> Session:
    """A session whose target answers PROMPT with `text` and the end token. `right`: every proposal is accepted."""
    answer = [*encode(text), 0]
    target = Speaker(answer, len(PROMPT_IDS))
    drafter = oracle(answer, len(PROMPT_IDS)) if right else always_wrong(answer, len(PROMPT_IDS), target.vocab_size)
    return fake_session(target, drafter, folder=folder, k=k, **options)


def finished(events: list[Any]) -> Finished:
    assert isinstance(events[-1], Finished), events[-1]
    return events[-1]


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("k", [0, 1, 4, 7])
def test_the_text_of_the_steps_is_the_answer(tmp_path: Path, k: int, right: bool) -> None:
    text = "naïve 你好 👩‍👩‍👧 and the dog 😀"
    events = list(speaking(tmp_path, text, k=k, right=right).generate(PROMPT, raw=True))
    assert isinstance(events[0], Started)
    assert tokens_of(events) == [*encode(text), 0]
    assert "".join(step.text for step in steps(events)) == text == finished(events).text
    assert not any("\ufffd" in step.text for step in steps(events))
    assert finished(events).reason == "end"
    for step in steps(events):
        assert step.accepted <= step.drafted <= k
        assert len(step.tokens) <= step.accepted + 1
        assert step.accepted == (step.drafted if right else 0)


def test_the_statistics_add_up(tmp_path: Path) -> None:
    text = "the quick brown fox"
    events = list(speaking(tmp_path, text).generate(PROMPT, raw=True))
    stats = finished(events).stats
    assert stats.prompt_tokens == len(PROMPT_IDS)
    assert stats.generated_tokens == len(encode(text)) + 1
    assert stats.rounds == len(steps(events))
    assert stats.drafted_tokens == sum(step.drafted for step in steps(events))
    assert stats.accepted_tokens == sum(step.accepted for step in steps(events))
    assert 0 <= stats.draft_s + stats.verify_s <= stats.elapsed_s
    assert 0 < stats.time_to_first_token_s <= stats.elapsed_s


def test_the_time_of_a_slow_reader_is_in_no_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("specgen.session.answer.time.perf_counter", lambda: now[0])
    session = speaking(tmp_path, "the quick brown fox")
    events = []
    for event in session.generate(PROMPT, raw=True):
        events.append(event)
        now[0] += 1.0
    stats = finished(events).stats
    assert (stats.elapsed_s, stats.time_to_first_token_s) == (0.0, 0.0)


@pytest.mark.parametrize("k", [0, 1, 3, 7])
@pytest.mark.parametrize("stop", ["lazy", "y d", "quick", "the", "t", "s"])
def test_a_stop_string_ends_the_answer_before_it(tmp_path: Path, stop: str, k: int) -> None:
    """Across tokens, inside a token and inside an accepted run, which it cuts."""
    text = "quick brown lazy dogs, the fox"
    events = list(speaking(tmp_path, text, k=k).generate(PROMPT, raw=True, stop=["not there", stop]))
    assert finished(events).reason == "stop"
    assert finished(events).text == text[: text.index(stop)] == "".join(step.text for step in steps(events))
    ids = encode(text)
    tokens = tokens_of(events)
    assert tokens == ids[: len(tokens)]
    for step in steps(events):
        assert step.accepted <= step.drafted
        assert step.accepted <= len(step.tokens) <= step.accepted + 1
    assert finished(events).stats.generated_tokens == len(tokens)


def test_a_stop_string_counts_before_the_end_and_the_limit(tmp_path: Path) -> None:
    text = "lazy dog"
    session = speaking(tmp_path, text, k=7)
    assert finished(list(session.generate(PROMPT, raw=True, stop=["dog"]))).reason == "stop"
    new = len(encode(text))
    assert finished(list(session.generate(PROMPT, raw=True, stop=["dog"], max_new_tokens=new))).reason == "stop"


def test_what_might_have_been_a_stop_string_is_shown_at_the_end(tmp_path: Path) -> None:
    events = list(speaking(tmp_path, "the fox do").generate(PROMPT, raw=True, stop=["dogs"]))
    assert finished(events).text == "the fox do" == "".join(step.text for step in steps(events))
    assert finished(events).reason == "end"
    assert (steps(events)[-1].tokens, steps(events)[-1].text) == ((), "do")


@pytest.mark.parametrize("new", [1, 2, 5, 6])
def test_max_new_tokens_is_met_exactly(tmp_path: Path, new: int) -> None:
    text = "the quick brown fox jumps over the dog"
    events = list(speaking(tmp_path, text).generate(PROMPT, raw=True, max_new_tokens=new))
    assert tokens_of(events) == encode(text)[:new]
    assert finished(events).reason == "length"


@pytest.mark.parametrize("new", [0, -1])
def test_no_tokens_at_all_are_refused(tmp_path: Path, new: int) -> None:
    events = list(speaking(tmp_path, "the fox").generate(PROMPT, raw=True, max_new_tokens=new))
    assert isinstance(events[-1], Failed)
    assert isinstance(events[-1].error, UsageError)
    assert "max_new_tokens" in str(events[-1].error)


def test_an_empty_stop_string_is_refused(tmp_path: Path) -> None:
    """It occurs in every text, so every answer would be empty."""
    events = list(speaking(tmp_path, "the fox").generate(PROMPT, raw=True, stop=["", "dog"]))
    assert isinstance(events[-1], Failed)
    assert isinstance(events[-1].error, UsageError)


@pytest.mark.parametrize("limit", [None, 6, 1000])
def test_the_context_is_never_exceeded(tmp_path: Path, limit: int | None) -> None:
    text = "the quick brown fox jumps over the lazy dog"
    length = len(PROMPT_IDS) + 5
    session = speaking(tmp_path, text, k=7, context_length=length)
    events = list(session.generate(PROMPT, raw=True, max_new_tokens=limit))
    assert tokens_of(events) == encode(text)[:5]
    assert finished(events).reason == "context"
    assert max(context for context, _ in session.pair.target.calls) < length  # type: ignore[attr-defined]


def test_a_limit_that_just_fits_the_context_is_a_length(tmp_path: Path) -> None:
    session = speaking(tmp_path, "the quick brown fox jumps", context_length=len(PROMPT_IDS) + 5)
    assert finished(list(session.generate(PROMPT, raw=True, max_new_tokens=5))).reason == "length"


@pytest.mark.parametrize("length", [len(PROMPT_IDS), len(PROMPT_IDS) - 1])
def test_a_prompt_that_fills_the_context_is_refused(tmp_path: Path, length: int) -> None:
    events = list(speaking(tmp_path, "the fox", context_length=length).generate(PROMPT, raw=True))
    assert len(events) == 1
    assert isinstance(events[0], Failed)
    assert isinstance(events[0].error, PromptTooLong)
    assert str(len(PROMPT_IDS)) in events[0].error.message
    assert str(length) in events[0].error.message


def test_an_empty_prompt_is_refused(tmp_path: Path) -> None:
    events = list(speaking(tmp_path, "the fox").generate("", raw=True))
    assert len(events) == 1
    assert isinstance(events[0], Failed)
    assert isinstance(events[0].error, UsageError)


def test_the_end_token_of_the_chat_template_ends_an_answer(tmp_path: Path) -> None:
    """Also where config.json names another."""
    (tmp_path / "config.json").write_text('{"eos_token_id": 319}')
    assert finished(list(speaking(tmp_path, "the fox").generate(PROMPT, raw=True))).reason == "end"


def test_a_recommendation_that_makes_no_sense_ends_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"do_sample": true, "top_k": 50.0, "temperature": 1e999}')
    (failed,) = speaking(tmp_path, "the fox").generate(PROMPT, raw=True)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, BadFile)
    assert failed.error.message == "generation_config.json: temperature cannot be inf"
    events = speaking(tmp_path, "the fox").generate(PROMPT, raw=True, sampling=SamplingChoice(temperature=0.0))
    assert finished(list(events)).text == "the fox"


def test_a_prompt_is_put_into_the_chat_template(tmp_path: Path) -> None:
    seen: list[list[int]] = []
    session = speaking(tmp_path, "the fox")
    session.pair.drafter.propose = lambda context, plan: seen.append(context.ids()) or _nothing()  # type: ignore
    list(session.generate(PROMPT, system="be kind", max_new_tokens=1))
    assert seen == [encode("<|start|>system\nbe kind<|end|>\n<|start|>user\nthe lazy dog<|end|>\n<|start|>assistant\n")]


def _nothing() -> Any:
    from specgen.engine.drafters.interface import Proposal

    return Proposal()


def test_a_system_prompt_without_a_chat_template_is_told(tmp_path: Path) -> None:
    session = speaking(tmp_path, "the fox", chat_template=None)
    events = list(session.generate(PROMPT, system="be kind", max_new_tokens=1))
    assert any(isinstance(event, Notice) and "no chat template" in event.text for event in events)
    assert not any(isinstance(event, Notice) for event in session.generate(PROMPT, max_new_tokens=1))


def test_stop_ends_the_stream_after_the_round(tmp_path: Path) -> None:
    session = speaking(tmp_path, "the quick brown fox jumps over the lazy dog", k=2)
    events = []
    for event in session.generate(PROMPT, raw=True):
        events.append(event)
        if len(steps(events)) == 2:
            session.stop()
    assert finished(events).reason == "interrupted"
    assert finished(events).text == "".join(step.text for step in steps(events)) != ""
    assert len(steps(events)) == 3
    # The next generation knows nothing of it.
    assert finished(list(session.generate(PROMPT, raw=True))).reason == "end"


def test_stop_shows_what_was_held_back(tmp_path: Path) -> None:
    session = speaking(tmp_path, "the fox do it", k=0)
    events = []
    for event in session.generate(PROMPT, raw=True, stop=["fox do!"]):
        events.append(event)
        if "".join(step.text for step in steps(events)) == "the ":
            session.stop()
    assert finished(events).text.startswith("the f")
    assert finished(events).text == session.pair.tokenizer.decode(tokens_of(events))


def test_started_says_what_repeats_the_run(tmp_path: Path) -> None:
    session = speaking(tmp_path, "the fox", k=3)
    started = next(session.generate(PROMPT, raw=True, sampling=SamplingChoice(temperature=0.5, seed=7)))
    assert isinstance(started, Started)
    assert (started.sampling.temperature, started.sampling.seed) == (0.5, 7)
    assert (started.num_draft_tokens, started.prompt_tokens) == (3, len(PROMPT_IDS))
    assert (started.device, started.dtype, started.drafter) == ("cpu", "float32", "model")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), OutOfMemory),
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), OutOfMemory),
        (DraftMismatch("no"), DraftMismatch),
    ],
)
def test_a_failure_that_a_user_can_cause_ends_the_stream(tmp_path: Path, error: Exception, kind: type) -> None:
    session = speaking(tmp_path, "the fox jumps", k=0)
    forward = session.pair.target.forward

    def failing(tokens: Tokens, last: int) -> Any:
        if len(tokens) == len(PROMPT_IDS) + 2:
            raise error
        return forward(tokens, last)

    session.pair.target.forward = failing  # type: ignore
    events = list(session.generate(PROMPT, raw=True))
    assert isinstance(events[-1], Failed)
    assert isinstance(events[-1].error, kind)
    assert len(steps(events)) == 2


def test_what_the_controller_has_to_say_comes_after_its_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FixedController, "observe", lambda *_: "slow")
    events = list(speaking(tmp_path, "the fox").generate(PROMPT, raw=True))
    assert events.count(Notice("slow")) == len(steps(events))
    assert all(isinstance(events[at - 1], Step) for at, event in enumerate(events) if isinstance(event, Notice))
    assert isinstance(events[-1], Finished)


def test_a_draft_is_helped_by_lookup_unless_that_is_turned_off(checkpoints: Any) -> None:
    def drafter(**options: Any) -> str:
        folders = str(checkpoints.target("llama")), str(checkpoints.draft("llama"))
        session = Session(*folders, EngineOptions(threads=1, **options))
        events = session.generate(PROMPT, raw=True, max_new_tokens=1)
        return next(event.drafter for event in events if isinstance(event, Started))

    assert drafter() == "hybrid"
    assert drafter(lookup=False) == "model"


def test_a_bug_is_not_dressed_up(tmp_path: Path) -> None:
    session = speaking(tmp_path, "the fox")
    session.pair.target.forward = lambda *_: 1 / 0  # type: ignore
    with pytest.raises(ZeroDivisionError):
        list(session.generate(PROMPT, raw=True))


LONG = "the quick brown fox jumps over the lazy dog and the lazy dog sleeps over there, hello"
NEW = 24
PAIRS = [
    ("llama", "none"),
    ("llama", "lookup"),
    ("llama", "similar"),
    ("mistral", "lookup"),
    ("mistral", "similar"),
    ("gemma3", "similar"),
    ("mamba", "lookup"),
    ("hybrid", "similar"),
]


def opened(checkpoints: Any, architecture: str, draft: str, k: int | None = 4) -> Session:
    draft = str(checkpoints.draft(architecture)) if draft == "similar" else draft
    session = Session(str(checkpoints.target(architecture)), draft, EngineOptions(num_draft_tokens=k, threads=1))
    for _ in session.open():
        pass
    return session


@pytest.mark.parametrize(("architecture", "draft"), PAIRS)
def test_closing_in_the_middle_leaves_the_session_as_new(
    checkpoints: Any, reference: Any, architecture: str, draft: str
) -> None:
    expected = reference(checkpoints.target(architecture), encode(LONG), NEW)
    session = opened(checkpoints, architecture, draft)
    for after in (1, 2, 5):
        stream = session.generate(LONG, raw=True, max_new_tokens=NEW)
        for _ in range(after):
            next(stream)
        stream.close()  # type: ignore[attr-defined]
    assert tokens_of(list(session.generate(LONG, raw=True, max_new_tokens=NEW))) == expected
    # Another prompt, one that shares some of it, and the first again.
    list(session.generate("something else entirely", raw=True, max_new_tokens=5))
    shorter = reference(checkpoints.target(architecture), encode(LONG[:40]), NEW)
    assert tokens_of(list(session.generate(LONG[:40], raw=True, max_new_tokens=NEW))) == shorter
    assert tokens_of(list(session.generate(LONG, raw=True, max_new_tokens=NEW))) == expected


class Failing(TorchDispatchMode):
    """Counts the operations of torch, and raises in place of the one numbered `at`."""

    def __init__(self, failure: BaseException, at: int = -1) -> None:
        super().__init__()
        self.count = 0
        self._failure, self._at = failure, at

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        if self.count == self._at:
            raise self._failure
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("runner", ["own", "transformers"])
@pytest.mark.parametrize(("architecture", "draft"), PAIRS)
def test_an_exception_anywhere_leaves_the_session_as_new(
    checkpoints: Any, reference: Any, architecture: str, draft: str, runner: str, request: pytest.FixtureRequest
) -> None:
    """Also between two layers, when only some have cached the new tokens."""
    if runner == "transformers":
        request.getfixturevalue("through_transformers")
    new = 10
    expected = reference(checkpoints.target(architecture), encode(LONG), NEW)[:new]
    session = opened(checkpoints, architecture, draft)
    with Failing(KeyboardInterrupt()) as whole:
        list(session.generate(LONG, raw=True, max_new_tokens=new))
    for part, failure in ((0.35, RuntimeError("no")), (0.6, KeyboardInterrupt()), (0.77, RuntimeError("no"))):
        session = opened(checkpoints, architecture, draft)
        with pytest.raises(type(failure)), Failing(failure, int(part * whole.count)):
            list(session.generate(LONG, raw=True, max_new_tokens=new))
        assert tokens_of(list(session.generate(LONG, raw=True, max_new_tokens=new))) == expected


def test_opening_tells_what_is_loaded_and_happens_once(checkpoints: Any) -> None:
    session = Session(str(checkpoints.target("llama")), str(checkpoints.draft("llama")), EngineOptions(threads=1))
    with pytest.raises(UsageError):
        _ = session.pair
    told = [event.what for event in session.open() if isinstance(event, Progress)]
    assert list(dict.fromkeys(told)) == [
        f"loading {checkpoints.target('llama')}",
        f"loading {checkpoints.draft('llama')}",
    ]
    assert list(session.open()) == []
    session.close()
    assert isinstance(next(session.open()), Progress)


def test_closing_while_loading_leaves_nothing_half_open(checkpoints: Any) -> None:
    session = Session(str(checkpoints.target("llama")), str(checkpoints.draft("llama")), EngineOptions(threads=1))
    stream = session.generate(LONG, raw=True, max_new_tokens=3)
    assert isinstance(next(stream), Progress)
    stream.close()  # type: ignore[attr-defined]
    assert len(tokens_of(list(session.generate(LONG, raw=True, max_new_tokens=3)))) == 3


def test_a_context_size_beyond_the_models_is_refused(checkpoints: Any) -> None:
    session = Session(str(checkpoints.target("llama")), "none", EngineOptions(threads=1, ctx_size=257))
    events = list(session.generate(LONG, raw=True))
    assert isinstance(events[-1], Failed)
    assert isinstance(events[-1].error, UsageError)


def test_a_context_size_is_respected(checkpoints: Any, reference: Any) -> None:
    length = len(encode(LONG)) + 7
    session = Session(str(checkpoints.target("llama")), "lookup", EngineOptions(threads=1, ctx_size=length))
    events = list(session.generate(LONG, raw=True, max_new_tokens=50))
    assert finished(events).reason == "context"
    assert tokens_of(events) == reference(checkpoints.target("llama"), encode(LONG), 7)


@pytest.mark.parametrize(
    ("architecture", "draft"), [("llama", "similar"), ("mistral", "lookup"), ("hybrid", "similar")]
)
@pytest.mark.parametrize(("seed", "k"), [(1, 4), (2, 4), (3, None)])
def test_a_sampled_run_is_the_plain_run_of_its_seed(
    checkpoints: Any, architecture: str, draft: str, seed: int, k: int | None
) -> None:
    choice = SamplingChoice(temperature=0.9, top_p=0.9, seed=seed)
    plain = opened(checkpoints, architecture, "none").generate(LONG, raw=True, sampling=choice, max_new_tokens=NEW)
    expected = tokens_of(list(plain))
    events = list(
        opened(checkpoints, architecture, draft, k).generate(LONG, raw=True, sampling=choice, max_new_tokens=NEW)
    )
    assert tokens_of(events) == expected
    assert any(isinstance(event, Step) for event in events[-3:-1])


@pytest.mark.parametrize("sampling", [SamplingChoice(), SamplingChoice(temperature=1.0)], ids=str)
def test_logits_that_are_nan_end_an_answer_with_a_line(tmp_path: Path, sampling: SamplingChoice) -> None:
    target = TableModel(VOCAB, seed=1)
    target.table[PROMPT_IDS[-1]] = torch.nan
    *_, failed = fake_session(target, folder=tmp_path).generate(PROMPT, raw=True, sampling=sampling)
    assert isinstance(failed, Failed)
    assert failed.error.exit_code == 11
    assert "the target model fake computes no usable scores: its logits are NaN" in str(failed.error)
