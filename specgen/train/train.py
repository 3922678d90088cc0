"""Trains a head for a target: prompts, answers, training, and a measurement of what it brings."""

import hashlib
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.checkpoint.gguf.config import read_config
from specgen.checkpoint.provenance import licence
from specgen.core.errors import UnsupportedModel, UsageError
from specgen.core.events import Notice, Progress
from specgen.core.files import cache_folder
from specgen.core.types import LOOKUP, EngineOptions
from specgen.nn.lean.architecture import Architecture
from specgen.nn.lean.families import Norms
from specgen.nn.lean.load import open_tensors, read_checkpoint_architecture
from specgen.session.own_heads import head_folder
from specgen.session.session import Session, memory_errors
from specgen.train.answers import (
    Question,
    TrainingAnswer,
    generate,
    make_questions,
    read_answers,
    split,
    token_counts,
)
from specgen.train.card import TrainingRecord, write_card
from specgen.train.comparison import Speed, compare
from specgen.train.network import TrainableHead, choose_vocabulary, states_read
from specgen.train.prompts import read_prompts
from specgen.train.teacher import Teacher
from specgen.train.trainer import Acceptance, Trainer, TrainingStep

# Longest prompt and answer, in tokens.
_PROMPT, _ANSWER = 1024, 256
# Answers to each prompt: one greedy, the others sampled.
_VARIANTS = 4
# The part of the time that may be spent on answers beyond the first to each prompt.
_ANSWERING = 0.35
# Fewer prompts leave too few to hold out.
_FEWEST = 10

# Least share of first tokens accepted, and least advantage over lookup, of a head that -d auto uses. Set by hand: the
# speed of eight answers varies by several percent.
_LEAST_ACCEPTANCE = 0.2
_MARGIN = 1.05


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """What to train. `draft` is one more draft to compare with; `out` replaces the folder of the head."""

    target: str
    sources: tuple[str, ...]
    minutes: float
    template: str | None = None
    search: tuple[str, ...] = ()
    draft: str | None = None
    out: Path | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The trained head. `speeds` is empty after Ctrl-C."""

    folder: Path
    acceptance: Acceptance
    speeds: tuple[Speed, ...]
    record: TrainingRecord


Events = Generator[Progress | Notice | TrainingStep | TrainingResult, None, None]


def train(settings: TrainSettings) -> Events:
    """Train until the time is over; the last event is the result. Ctrl-C keeps the best head so far.

    A later call for the same target goes on where an earlier one ended. Raises SpecgenError.
    """
    end = time.monotonic() + 60 * settings.minutes
    session = Session(settings.target, LOOKUP, replace(settings.engine, num_draft_tokens=None))
    for event in session.open():
        if isinstance(event, Progress | Notice):
            yield event
    with memory_errors():
        yield from _Training(session, settings, end).run()


class _Training:
    """One run of `train`, over an open session."""

    def __init__(self, session: Session, settings: TrainSettings, end: float) -> None:
        pair = session.pair
        self._session = session
        self._settings = settings
        self._begin = time.monotonic()
        self._end = end
        self._checkpoint = pair.checkpoint
        self._architecture = _trainable(pair.checkpoint)
        self._folder = settings.out or head_folder(pair.checkpoint)
        name = f"{pair.checkpoint.ref.name} {pair.checkpoint.commit}"
        self._work = cache_folder() / "training" / hashlib.sha256(name.encode()).hexdigest()[:16]
        self._states = states_read(len(self._architecture.layers))

    def run(self) -> Events:
        questions, held = self._questions()
        self._work.mkdir(mode=0o700, parents=True, exist_ok=True)
        interrupted = False
        answers: list[TrainingAnswer] = []
        trainer: Trainer | None = None
        try:
            yield from self._answer(questions, held, answers)
            keys = {each.key for each in held}
            watched = [each for each in answers if each.key in keys and each.variant == 0]
            known = [each for each in answers if each.key not in keys]
            head, trainer = self._trainer(known)
            for step in trainer.train(known, watched, max(1.0, self._end - time.monotonic())):
                yield step
                self._keep(head, trainer, is_best=step.is_best)
        except KeyboardInterrupt:
            interrupted = True
            if trainer is None:
                raise
        yield Progress("measuring acceptance")
        head.restore(trainer.best)
        acceptance = trainer.measure(watched) if not interrupted else trainer.acceptance
        self._keep(head, trainer, is_best=True)
        speeds: list[Speed] = []
        if not interrupted:
            others = [self._settings.draft] if self._settings.draft else []
            for measured in compare(self._session, [LOOKUP, *others, str(self._folder)], held):
                if isinstance(measured, Speed):
                    speeds.append(measured)
                else:
                    yield measured
        record = self._record(known, trainer, acceptance, speeds, len(head.ids))
        write_card(self._folder, record, acceptance, speeds, self._work)
        yield TrainingResult(self._folder, acceptance, tuple(speeds), record)

    def _questions(self) -> tuple[list[Question], list[Question]]:
        settings = self._settings
        name = self._checkpoint.ref.name
        prompts = read_prompts(settings.sources, name, template=settings.template, search=settings.search)
        longest = min(_PROMPT, self._session.pair.context_length - _ANSWER)
        questions = make_questions(self._session, prompts, longest)
        if len(questions) < _FEWEST:
            raise UsageError(
                f"there are {len(questions)} prompts that fit, and training needs {_FEWEST}",
                hint="name more with --from",
            )
        return split(questions)

    def _answer(self, questions: Sequence[Question], held: Sequence[Question], answers: list[TrainingAnswer]) -> Events:
        """Add the answers of earlier runs to `answers`, and generate those that are missing while there is time."""
        path = self._work / "answers.jsonl"
        wanted = {each.key for each in (*questions, *held)}
        answers += [each for each in read_answers(path) if each.key in wanted]
        there = {(each.key, each.variant) for each in answers}
        latest = self._begin + _ANSWERING * (self._end - self._begin)
        rounds = [(0, held), *((variant, questions) for variant in range(_VARIANTS))]
        with path.open("a", encoding="utf-8") as file:
            for variant, group in rounds:
                for number, question in enumerate(group):
                    late = time.monotonic() > (latest if variant else self._end)
                    if (question.key, variant) in there or late:
                        continue
                    yield Progress(f"answering prompt {number + 1} of {len(group)}, time {variant + 1}")
                    answer = generate(self._session, question, variant, _ANSWER)
                    file.write(answer.as_line())
                    file.flush()
                    answers.append(answer)

    def _trainer(self, answers: Sequence[TrainingAnswer]) -> tuple[TrainableHead, Trainer]:
        target = self._session.pair.target
        device = target.shared.device
        path = self._work / "state.pt"
        saved = torch.load(path, map_location=device, weights_only=True) if path.is_file() else None
        if saved is not None:
            ids = saved["ids"].cpu()
        else:
            ids = choose_vocabulary(token_counts(answers, self._architecture.vocab_size), self._architecture)
        head = TrainableHead(self._architecture, ids, device)
        head.begin_as(open_tensors(self._checkpoint))
        trainer = Trainer(head, Teacher(target, self._states, ids.to(device)), device)
        if saved is not None:
            trainer.resume(saved)
        return head, trainer

    def _keep(self, head: TrainableHead, trainer: Trainer, *, is_best: bool) -> None:
        """Save the state of the training, and the head where it is the best so far."""
        trainer.save(self._work / "state.pt")
        if is_best:
            config = self._checkpoint.config
            if self._checkpoint.is_gguf:
                found = read_config(self._checkpoint.header)
                config = {} if isinstance(found, str) else found
            head.save(self._folder, self._checkpoint.ref.name, config, self._states)

    def _record(
        self,
        answers: Sequence[TrainingAnswer],
        trainer: Trainer,
        acceptance: Acceptance,
        speeds: Sequence[Speed],
        vocabulary: int,
    ) -> TrainingRecord:
        mine = next((each for each in speeds if each.draft == str(self._folder)), None)
        placement = self._session.pair.placement
        lookup = next((each.median for each in speeds if each.draft == LOOKUP), 1.0)
        return TrainingRecord(
            target=self._checkpoint.ref.name,
            revision=self._checkpoint.commit,
            licence=licence(self._checkpoint),
            sources=self._settings.sources,
            prompts=len({each.key for each in answers}),
            answers=len(answers),
            answer_tokens=sum(len(each.ids) - each.prompt for each in answers),
            read_tokens=trainer.tokens,
            minutes=trainer.seconds / 60,
            date=datetime.now(UTC).date().isoformat(),
            quant=placement.quant if placement.quantized else str(placement.dtype).removeprefix("torch."),
            vocabulary=vocabulary,
            states=self._states,
            acceptance=tuple(round(share, 4) for share in acceptance.shares),
            length=round(acceptance.length, 4),
            speed_up=round(mine.median, 3) if mine else None,
            faster=_pays(acceptance, mine.median, lookup) if mine else None,
        )


def _pays(acceptance: Acceptance, speed_up: float, lookup: float) -> bool:
    """Whether a head that runs beside lookup is faster than lookup alone and than no draft, beyond noise.

    A head that hardly guesses cannot be: then the difference is noise, or lookup's.
    """
    return acceptance.shares[0] >= _LEAST_ACCEPTANCE and speed_up > _MARGIN * max(1.0, lookup)


def _trainable(checkpoint: Checkpoint) -> Architecture:
    """The architecture of a target that a head can begin from. Raises UnsupportedModel."""
    found = read_checkpoint_architecture(checkpoint)
    plain = (
        isinstance(found, Architecture)
        and not found.fused
        and not found.unit_offset
        and found.norms == Norms()
        and found.activation == "silu"
        and found.embedding_scale == found.residual_scale == found.logits_divisor == 1
        and any(layer.rope for layer in found.layers)
    )
    if not isinstance(found, Architecture) or not plain:
        raise UnsupportedModel(
            f"no head can be trained for {checkpoint.ref}: its layers are not those of Llama or Qwen",
            hint="choose another target",
        )
    return found
