"""The target's own answers to the prompts: those of the history, and others that it generates."""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from specgen.core.events import Finished, Step
from specgen.core.tokens import Tokens
from specgen.core.types import SamplingChoice
from specgen.session.prompt import Prompt, chat_prompt, encode_raw
from specgen.session.session import Session
from specgen.train.prompts import TrainingPrompt

# One of this many prompts is held out, at most _HELD of them.
_HELD_SHARE = 5
_HELD = 60
# Temperature of answers beyond the first to a prompt.
_TEMPERATURE = 0.8


@dataclass(frozen=True, slots=True)
class TrainingAnswer:
    """Token ids: those of the prompt, `prompt` in number, then those of the answer. `variant` 0 is greedy."""

    key: str
    variant: int
    prompt: int
    ids: tuple[int, ...]

    def as_line(self) -> str:
        return json.dumps({"key": self.key, "variant": self.variant, "prompt": self.prompt, "ids": self.ids}) + "\n"


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt as token ids. `key` names it between runs; `known` has the ids of an answer of the history."""

    key: str
    ids: tuple[int, ...]
    known: tuple[int, ...] = ()


def make_questions(session: Session, prompts: Sequence[TrainingPrompt], longest: int) -> list[Question]:
    """The prompts as token ids, in random order; those of more than `longest` tokens are left out."""
    tokenizer = session.pair.tokenizer
    questions = []
    for prompt in prompts:
        if prompt.raw or tokenizer.chat_template is None:
            ids = tuple(encode_raw(tokenizer, "\n\n".join(each.content for each in prompt.messages)))
        else:
            encoded: Prompt = chat_prompt(tokenizer, prompt.messages)
            ids = encoded.ids
        if 0 < len(ids) <= longest:
            known = tuple(tokenizer.encode(prompt.answer, special=False)) if prompt.answer else ()
            questions.append(Question(hashlib.sha256(str(ids).encode()).hexdigest()[:16], ids, known))
    random.Random(0).shuffle(questions)  # noqa: S311  no secret
    return questions


def split(questions: Sequence[Question]) -> tuple[list[Question], list[Question]]:
    """(train, held out). A prompt stays on its side in later runs, because its key decides."""
    ordered = sorted(questions, key=lambda each: each.key)
    count = min(_HELD, len(ordered) // _HELD_SHARE)
    held = {each.key for each in ordered[:count]}
    return [each for each in questions if each.key not in held], [each for each in questions if each.key in held]


def generate(session: Session, question: Question, variant: int, new: int) -> TrainingAnswer:
    """The target's answer of at most `new` tokens. Raises SpecgenError."""
    if variant == 0 and question.known:
        return TrainingAnswer(question.key, 0, len(question.ids), (*question.ids, *question.known[:new]))
    temperature = _TEMPERATURE if variant else 0.0
    choice = SamplingChoice(temperature=temperature, top_k=0, top_p=1.0, min_p=0.0, seed=variant)
    made: list[int] = []
    for event in session.run(Tokens(question.ids), choice, new):
        if isinstance(event, Step):
            made += event.tokens
        elif isinstance(event, Finished):
            break
    return TrainingAnswer(question.key, variant, len(question.ids), (*question.ids, *made))


def read_answers(path: Path) -> Iterator[TrainingAnswer]:
    """The answers of an earlier run. A line that a killed run left unfinished is skipped."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found = json.loads(line)
            yield TrainingAnswer(found["key"], found["variant"], found["prompt"], tuple(found["ids"]))
        except (ValueError, KeyError, TypeError):
            continue


def token_counts(answers: Iterable[TrainingAnswer], vocab_size: int) -> list[int]:
    """How often each token stands in the answers."""
    counts = [0] * vocab_size
    for answer in answers:
        for token in answer.ids[answer.prompt :]:
            counts[token] += 1
    return counts
