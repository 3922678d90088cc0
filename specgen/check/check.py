"""Answers prompts with and without speculation over one pair and compares the texts."""

import dataclasses
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from specgen.bench.contenders import HISTORY, HYBRID, LOOKUP, MODEL, PLAIN, OwnContender, Variant, available
from specgen.bench.suites import SuitePrompt, alternate_categories, choose, prompt_ids, read_suite
from specgen.check.difference import CallRecorder, Difference, GeneratedText, compare
from specgen.core.defaults import DRAFT, SUITE, SUITE_TOKENS
from specgen.core.errors import UsageError
from specgen.core.events import LoadedModel, Notice, Progress, Stats
from specgen.core.types import EngineOptions, SamplingChoice, SamplingParams
from specgen.engine.drafters.answer_index import AnswerIndex
from specgen.session.pair import Pair
from specgen.session.session import Session, memory_errors

_DRAFTERS = (MODEL, LOOKUP, HYBRID, HISTORY)
# Every such token of an earlier answer is changed for `history`, so that some of its proposals are rejected.
_CHANGED = 9
_DRAFT_LENGTH = 4  # tokens with -k auto: the adaptive length may draft nothing in a short answer


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """What to check. `texts` are prompts that replace the suite.

    Empty `drafters` stand for the drafter of the pair; `history` is lookup that knows much of the answer. `most` limits
    the number of prompts, taken from the categories in turn. `last` keeps only that many tokens at the end of every
    prompt.
    """

    target: str
    draft: str = DRAFT
    engine: EngineOptions = dataclasses.field(default_factory=EngineOptions)
    texts: tuple[str, ...] = ()
    suite: str = SUITE
    categories: tuple[str, ...] = ()
    most: int | None = None
    last: int | None = None
    drafters: tuple[str, ...] = ()
    max_new_tokens: int = SUITE_TOKENS
    samplings: tuple[SamplingParams, ...] = (SamplingParams(),)


@dataclass(frozen=True, slots=True)
class CheckStarted:
    """The pair is loaded; `runs` comparisons follow. `draft_length` is in tokens."""

    target: LoadedModel
    draft: LoadedModel | None
    device: str
    dtype: str
    quant: str
    drafters: tuple[str, ...]
    draft_length: int
    runs: int


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result for one prompt, sampling and drafter. `difference` is None for equal texts.

    `words` are the texts of the two different tokens; "" for a text that has ended.
    """

    prompt: SuitePrompt
    sampling: SamplingParams
    drafter: str
    difference: Difference | None
    words: tuple[str, str]
    stats: Stats


def check(settings: CheckSettings) -> Generator[Progress | Notice | CheckStarted | CheckResult, None, None]:
    """Load the pair, yield `CheckStarted`, then a `CheckResult` per run. Raises SpecgenError."""
    prompts = _prompts(settings)
    for name in settings.drafters:
        if name not in _DRAFTERS:
            raise UsageError(f"there is no drafter '{name}' to check", hint=f"there is: {', '.join(_DRAFTERS)}")
    session = Session(settings.target, settings.draft, settings.engine)
    for event in session.open():
        if isinstance(event, Progress | Notice):
            yield event
    yield from check_pair(session.pair, prompts, settings)


def check_pair(
    pair: Pair, prompts: Sequence[SuitePrompt], settings: CheckSettings
) -> Generator[Progress | Notice | CheckStarted | CheckResult, None, None]:
    """Like `check`, over a loaded pair. The models named in `settings` are ignored."""
    drafters = settings.drafters or ((pair.drafter_name,) if pair.drafter_name != "none" else ())
    if not drafters or not pair.target.can_verify:
        raise UsageError("this pair drafts nothing, so there is nothing to check", hint="name a draft with -d")
    ids = {prompt: _ids(pair, prompt, settings) for prompt in prompts}
    runs = [(prompt, sampling) for prompt in prompts for sampling in settings.samplings]
    checker = _Checker(pair, drafters, settings)
    yield CheckStarted(
        target=pair.loaded_target,
        draft=pair.loaded_draft,
        device=pair.placement.device.type,
        dtype=str(pair.placement.dtype).removeprefix("torch."),
        quant=pair.placement.quant,
        drafters=drafters,
        draft_length=checker.draft_length,
        runs=len(runs) * len(drafters),
    )
    start = time.monotonic()
    for done, (prompt, sampling) in enumerate(runs):
        left = (time.monotonic() - start) / done * (len(runs) - done) if done else None
        yield Progress(f"{label(prompt, sampling)}, {done + 1} of {len(runs)}{_time_left(left)}")
        with memory_errors():
            yield from checker.run(prompt, ids[prompt], sampling)


class _Checker:
    """Answers a prompt without speculation and with every drafter, and compares the texts."""

    def __init__(self, pair: Pair, drafters: Sequence[str], settings: CheckSettings) -> None:
        self._pair = pair
        self._drafters = drafters
        self._settings = settings
        self.draft_length = settings.engine.num_draft_tokens or _DRAFT_LENGTH
        for name in drafters:
            if name not in (*available(pair), HISTORY):
                known = ", ".join([*available(pair)[1:], HISTORY])
                raise UsageError(f"this pair has no drafter '{name}'", hint=f"there is: {known}")

    def run(self, prompt: SuitePrompt, ids: Sequence[int], sampling: SamplingParams) -> Iterator[CheckResult]:
        plain, _ = self._answer(PLAIN, ids, sampling)
        for name in self._drafters:
            drafted, stats = self._answer(name, ids, sampling, plain.ids)
            difference = compare(self._pair.target, ids, plain, drafted, sampling, self._pair.placement.dtype)
            yield CheckResult(prompt, sampling, name, difference, self._words(difference), stats)

    def _answer(
        self, drafter: str, ids: Sequence[int], sampling: SamplingParams, said: Sequence[int] = ()
    ) -> tuple[GeneratedText, Stats]:
        """Answer with `drafter`. `said` is the plain answer, which `history` repeats with changes."""
        target = CallRecorder(self._pair.target)
        pair = dataclasses.replace(self._pair, target=target)
        options = dataclasses.replace(self._settings.engine, num_draft_tokens=self.draft_length)
        # Every field is set, so the model's recommended sampling does not apply.
        kind = LOOKUP if drafter == HISTORY else drafter
        variant = Variant(kind, options, SamplingChoice(**dataclasses.asdict(sampling)))
        earlier = _changed_answer(said) if drafter == HISTORY else None
        made = OwnContender(drafter, pair, variant, earlier=earlier).run(ids, self._settings.max_new_tokens)
        return GeneratedText(made.ids, target.calls), made.stats

    def _words(self, difference: Difference | None) -> tuple[str, str]:
        ids = (difference.plain, difference.drafted) if difference else (None, None)
        first, second = ("" if token is None else self._word(token) for token in ids)
        return first, second

    def _word(self, token: int) -> str:
        """The text of a token, or its name in the vocabulary for special tokens and parts of characters."""
        text = self._pair.tokenizer.decode([token])
        return text if text.strip("\ufffd") else self._pair.tokenizer.token_text(token)


def _changed_answer(said: Sequence[int]) -> AnswerIndex:
    """An index of the answer `said` in which every token with a number divisible by _CHANGED repeats the one before."""
    index = AnswerIndex()
    changed = [said[at - 1] if at and at % _CHANGED == 0 else token for at, token in enumerate(said)]
    index.add([np.array(changed, dtype=np.int32)])
    return index


def label(prompt: SuitePrompt, sampling: SamplingParams) -> str:
    """Describe a prompt and a sampling."""
    return f"prompt {prompt.id} ({prompt.category}), {'greedy' if sampling.greedy else f'seed {sampling.seed}'}"


def _prompts(settings: CheckSettings) -> list[SuitePrompt]:
    """The prompts to check, round-robin by category."""
    if settings.texts:
        if not all(text.strip() for text in settings.texts):
            raise UsageError("a prompt is empty", hint="write a prompt of at least one character")
        prompts = [SuitePrompt(str(number), "given", text) for number, text in enumerate(settings.texts, start=1)]
    else:
        prompts = choose(read_suite(settings.suite), settings.categories, None)
    return alternate_categories(prompts)[: settings.most]


def _ids(pair: Pair, prompt: SuitePrompt, settings: CheckSettings) -> Sequence[int]:
    """Encode `prompt`, cut to its last tokens by `last` and by the context length."""
    ids, room = prompt_ids(pair, prompt, settings.max_new_tokens)
    return ids[-min(room, settings.last or room) :]


def _time_left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f", {seconds:.0f} s left" if seconds < 90 else f", {seconds / 60:.0f} min left"
