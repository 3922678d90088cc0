"""A head is trained for a tiny target, kept, used by `--draft auto`, and goes on from where it ended."""

import json
import random
from pathlib import Path

import pytest
import torch

from specgen.checkpoint.checkpoint import Checkpoint, find
from specgen.checkpoint.drafter_format import read_format
from specgen.core.errors import BadFile, UnsupportedModel, UsageError
from specgen.core.progress import follow
from specgen.core.tokens import Tokens
from specgen.core.types import EngineOptions, Message, ModelRef
from specgen.nn.heads.load import load_head
from specgen.nn.heads.reader import HeadReader
from specgen.nn.interface import Runner
from specgen.nn.lean.load import open_tensors, read_checkpoint_architecture
from specgen.session.own_heads import RECORD, head_folder, own_head
from specgen.session.session import Session
from specgen.train import network
from specgen.train import train as train_module
from specgen.train.answers import TrainingAnswer, make_questions, read_answers, split
from specgen.train.network import TrainableHead, chain, choose_vocabulary
from specgen.train.prompts import TrainingPrompt, read_prompts
from specgen.train.teacher import Teacher
from specgen.train.train import TrainingResult, TrainSettings, train
from specgen.train.trainer import STEPS, Trainer, TrainingStep
from tests.checkpoints import Checkpoints
from tests.heads import LAYERS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target that repeats a few tokens, so that a head can learn it in seconds."""
    return Checkpoints(tmp_path_factory.mktemp("models")).make("six", "llama", num_hidden_layers=LAYERS)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    words = "the quick brown fox jumps over lazy dog sleeps there parser path raise error".split()  # noqa: SIM905
    dice = random.Random(1)
    lines = [json.dumps({"prompt": " ".join(dice.choices(words, k=6))}) for _ in range(20)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_module, "_ANSWER", 24)
    monkeypatch.setattr(train_module, "_PROMPT", 100)


def settings(target: Path, prompts: Path, minutes: float = 0.08, **given: object) -> TrainSettings:
    return TrainSettings(str(target), (str(prompts),), minutes, engine=EngineOptions(threads=1), **given)  # type: ignore[arg-type]


def opened(target: Path) -> Session:
    session = Session(str(target), "none")
    list(session.open())
    return session


def made_head(target: Path) -> tuple[Session, TrainableHead, Teacher]:
    session = opened(target)
    architecture = read_checkpoint_architecture(session.pair.checkpoint)
    assert not isinstance(architecture, str)
    ids = torch.arange(2, 40)
    head = TrainableHead(architecture, ids, CPU)
    head.begin_as(open_tensors(session.pair.checkpoint))
    return session, head, Teacher(session.pair.target, (2, 3, 3), ids)


def some_answer(length: int = 30) -> TrainingAnswer:
    return TrainingAnswer("key", 0, 10, tuple(random.Random(5).choices(range(2, 34), k=length)))


def test_a_trained_head_is_kept_and_used_where_it_is_faster(
    target: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = list(train(settings(target, prompts)))
    result = events[-1]
    assert isinstance(result, TrainingResult)
    steps = [each for each in events if isinstance(each, TrainingStep)]
    assert steps[-1].tokens > 0
    checkpoint = follow(find(ModelRef(str(target)), offline=True), lambda _: None)
    assert result.folder == head_folder(checkpoint)
    head = follow(find(ModelRef(str(result.folder)), offline=True), lambda _: None)
    assert read_format(head).layout == "speculators"
    assert [each.draft for each in result.speeds] == ["lookup", str(result.folder)]
    card = (result.folder / "README.md").read_text()
    for words in ("base_model", "Prompts: 16, from", "## Privacy", "Delete that folder"):
        assert words in card
    # The whole loop: the draft is named like any other.
    plain = answer_of(Session(str(target), "none"))
    assert answer_of(Session(str(target), str(result.folder), EngineOptions(num_draft_tokens=3))) == plain
    # `--draft auto` takes it only where it was faster.
    record = json.loads((result.folder / RECORD).read_text())
    for faster in (False, True):
        (result.folder / RECORD).write_text(json.dumps(record | {"faster": faster, "speed_up": 1.4}))
        found = own_head(checkpoint)
        assert (found is not None) is faster
        session = Session(str(target), "auto")
        list(session.open())
        assert (session.pair.head is not None) is faster
    (result.folder / RECORD).write_text(json.dumps(record | {"faster": True, "revision": "other"}))
    assert own_head(checkpoint) is None


def answer_of(session: Session) -> str:
    return list(session.generate("the quick", raw=True, max_new_tokens=30))[-1].text  # type: ignore[union-attr]


def test_training_goes_on_and_ctrl_c_keeps_the_best(
    target: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "head"
    first = list(train(settings(target, prompts, out=out)))[-1]
    assert isinstance(first, TrainingResult)
    generated: list[object] = []
    monkeypatch.setattr(train_module, "generate", lambda *given: generated.append(given))
    monkeypatch.setattr(train_module, "_VARIANTS", 1)
    whole = Trainer.train

    def interrupted(self: Trainer, *given: object) -> object:
        yield next(whole(self, *given))  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train", interrupted)
    events = list(train(settings(target, prompts, out=out)))
    second = events[-1]
    assert isinstance(second, TrainingResult)
    assert second.speeds == ()
    assert not generated, "the answers of the first run are used again"
    assert second.record.read_tokens > first.record.read_tokens
    assert second.acceptance.length >= first.acceptance.length - 1e-6 or second.acceptance.positions > 0


def test_a_chain_is_what_the_drafter_computes(target: Path, tmp_path: Path) -> None:
    """Row i of step s of a training chain has the bits of a drafter after s tokens of its own, apart from rounding."""
    session, head, teacher = made_head(target)
    answer = some_answer()
    lesson = teacher.read(answer, 100)
    with torch.no_grad():
        network = head.head()
        outputs = chain(network, network.read([lesson.states.float()]), teacher.embed(lesson.following), STEPS)
    head.save(tmp_path / "head", "target", {}, (2, 3, 3))
    loaded = Checkpoint(ModelRef("head"), tmp_path / "head")
    runner: Runner = session.pair.target
    exact = load_head(loaded, runner.shared, runner.vocab_size, session.pair.placement)
    reader = HeadReader(exact, runner, (2, 3, 3))
    runner.forward(Tokens([1]), 1)
    runner.forward(Tokens(answer.ids), 1)
    for row in (5, 14, 20):
        output, _ = reader.begin(Tokens(answer.ids[: row + 2]), 100)
        for depth in range(STEPS):
            expected = network.scores(outputs[depth][row + depth]).detach()
            found = reader.scores(output)[0, head.ids]
            assert float((found - expected).norm() / expected.norm()) < 0.05, (row, depth)
            output = reader.step(Tokens(answer.ids[: row + depth + 3]), output)


def test_the_head_begins_as_the_last_layer_and_learns(target: Path) -> None:
    _, head, teacher = made_head(target)
    trainer = Trainer(head, teacher, CPU)
    answers = [TrainingAnswer(str(i), 0, 5, tuple(random.Random(i).choices(range(2, 34), k=40))) for i in range(4)]
    before = sum(float(trainer.loss(teacher.read(each, 100)).detach()) for each in answers)
    list(trainer.train(answers, answers[:1], 2.0))
    after = sum(float(trainer.loss(teacher.read(each, 100)).detach()) for each in answers)
    assert after < before - 0.05 * abs(before)


def test_an_answer_too_short_for_a_chain_is_not_measured(target: Path) -> None:
    _, head, teacher = made_head(target)
    trainer = Trainer(head, teacher, CPU)
    short = [TrainingAnswer(str(length), 0, 10, some_answer(10 + length).ids) for length in range(4)]
    assert trainer.measure([]).positions == 0
    assert [trainer.measure([each]).positions for each in short] == [0, 0, 1, 2]


def test_a_lesson_is_about_the_token_after_next(target: Path) -> None:
    session, _, teacher = made_head(target)
    answer = some_answer(20)
    lesson = teacher.read(answer, 100)
    session.pair.target.tap((), None)
    rows = session.pair.target.forward(Tokens(answer.ids), len(answer.ids))
    assert torch.equal(lesson.picks, rows.argmax(-1)[1:])
    assert lesson.following.tolist() == list(answer.ids[1:])
    assert lesson.first == answer.prompt - 2
    logs = rows[:, 2:40].log_softmax(-1)[1:]
    torch.testing.assert_close(lesson.logs, logs.gather(1, lesson.likeliest), atol=1e-5, rtol=1e-4)
    mass = rows.softmax(-1)[1:, 2:40].sum(-1)
    torch.testing.assert_close(lesson.mass, mass, atol=1e-5, rtol=1e-4)


def test_held_out_prompts_stay_held_out(target: Path) -> None:
    session = opened(target)
    made = [TrainingPrompt((Message("user", f"prompt number {i}"),)) for i in range(40)]
    questions = make_questions(session, made, 100)
    trained, held = split(questions)
    assert (len(trained), len(held)) == (32, 8)
    assert not {each.key for each in trained} & {each.key for each in held}
    again = split(list(reversed(questions)))[1]
    assert {each.key for each in again} == {each.key for each in held}


def test_prompts_of_files(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        '{"prompt": "one"}\n\n{"turns": ["two", "more"]}\n{"prompt": "one"}\n'
        '{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "three"},'
        ' {"role": "assistant", "content": "dropped"}]}\n'
    )
    found = read_prompts([str(path)], "target")
    assert [[each.content for each in prompt.messages] for prompt in found] == [["one"], ["two"], ["s", "three"]]
    path.write_text('{"prompt": "one"}\n{"text": "x"}\n')
    with pytest.raises(BadFile, match=r"line 2 of .* has no prompt"):
        read_prompts([str(path)], "target")
    with pytest.raises(BadFile, match="cannot read"):
        read_prompts([str(tmp_path / "none")], "target")
    path.write_text("\n")
    with pytest.raises(UsageError, match="there are no prompts"):
        read_prompts([str(path)], "target")


def test_what_cannot_be_trained_is_refused(
    target: Path, prompts: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Checkpoints(tmp_path_factory.mktemp("other")).target("gemma3")
    with pytest.raises(UnsupportedModel, match="its layers are not those of Llama or Qwen"):
        list(train(settings(other, prompts)))
    few = tmp_path / "few.jsonl"
    few.write_text('{"prompt": "one"}\n')
    with pytest.raises(UsageError, match="there are 1 prompts that fit, and training needs 10"):
        list(train(settings(target, few)))


def test_the_vocabulary_has_the_frequent_tokens_first(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_FEWEST_TOKENS", 10)
    session = opened(target)
    architecture = read_checkpoint_architecture(session.pair.checkpoint)
    assert not isinstance(architecture, str)
    counts = [0] * architecture.vocab_size
    counts[300] = counts[200] = 5
    ids = choose_vocabulary(counts, architecture)
    assert ids.tolist() == [*range(8), 200, 300]


def test_a_line_that_a_killed_run_left_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    whole = some_answer(12)
    path.write_text(whole.as_line() + whole.as_line()[:20])
    assert list(read_answers(path)) == [whole]
    assert list(read_answers(tmp_path / "none")) == []
