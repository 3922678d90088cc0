"""The public interface: a session turns prompts into streams of events."""

import contextlib
import functools
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from specgen.checkpoint.tokenizer import Tokenizer
from specgen.config.pairs import resolve, resolve_draft
from specgen.core.defaults import DRAFT
from specgen.core.errors import OutOfMemory, SpecgenError, UsageError
from specgen.core.events import Event, Finished, Notice, Progress, Reason, Started, failing, with_messages
from specgen.core.tokens import Tokens
from specgen.core.types import LOOKUP, NONE, Constraint, EngineOptions, Message, SamplingChoice, SamplingParams
from specgen.engine.decode import Limits
from specgen.engine.drafters.answer_index import MOST_TOKENS
from specgen.engine.drafters.forced import ForcedDrafter
from specgen.engine.drafters.interface import Drafter, NoDrafter
from specgen.engine.pacing.controller import Controller, make_controller
from specgen.engine.sampling.constraint import Follower, Vocabulary
from specgen.engine.sampling.grammar import compile_grammar
from specgen.engine.sampling.sampler import NonFiniteLogits, Sampler
from specgen.engine.text.detokenizer import TextStream
from specgen.engine.text.thinking import Tags, ThinkingSplit
from specgen.history.answer_tokens import AnswerTokens
from specgen.session.answer import Answer, special_tokens
from specgen.session.generation_defaults import end_ids, resolve_sampling
from specgen.session.loading import Opener, PromptCheck, open_pair, with_draft
from specgen.session.memory_plan import plan_pair
from specgen.session.pair import Pair
from specgen.session.prompt import Prompt, chat_prompt, check_length, raw_prompt, refuse_long

_STILL_THINKING = "the model was still thinking, so there is no answer; raise -n, or switch thinking off by --no-think"


@dataclass(frozen=True, slots=True)
class Pacing:
    """The fixed draft length in tokens, None for an adaptive one, and the controller that applies it."""

    num_draft_tokens: int | None
    controller: Controller

    @classmethod
    def new(cls, num_draft_tokens: int | None) -> Self:
        return cls(num_draft_tokens, make_controller(num_draft_tokens))


class Session:
    """A target and its drafter, loaded at the first use. Answers may be open at once, see `share_rounds`.

    target: a curated pair, a hub id `org/name[@revision]`, a local folder, or a `.gguf` file. draft: the same, or
    `lookup` (n-grams of the prompt and the output), `none`, or `auto` (see draft_selection.choose_draft). `opener`
    loads the pair.
    """

    def __init__(
        self, target: str, draft: str = DRAFT, options: EngineOptions | None = None, *, opener: Opener = open_pair
    ) -> None:
        self.target = target
        self._target, self._draft = resolve(target), resolve_draft(draft)
        self._options = options or EngineOptions()
        self._opener = opener
        self._pair: Pair | None = None
        self._vocabulary: Vocabulary | None = None
        self._pacing = Pacing.new(self._options.num_draft_tokens)
        self._stop_reason: Reason | None = None
        self.notices: list[Notice] = []
        """The notices of the last opening."""
        self.speculating = True
        """Whether anything is drafted. The text does not depend on it."""
        self.uses_history = False
        """Whether lookup may draft from the user's logged answers. The text does not depend on it."""
        self._answer_tokens: AnswerTokens | None = None

    @classmethod
    def over(cls, pair: Pair, options: EngineOptions, controller: Controller | None = None) -> Self:
        """A session over a loaded pair. Several sessions may share a pair, one generation at a time.

        `controller` may have learned from earlier answers of the pair; None makes a new one.
        """
        session = cls(pair.checkpoint.ref.source, "none", options)
        session._pair = pair
        if controller:
            session._pacing = Pacing(options.num_draft_tokens, controller)
        return session

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the models."""
        self._pair = self._vocabulary = None

    def stop(self, reason: Reason = "interrupted") -> None:
        """End the running generation after its current round. Safe in other threads and signal handlers."""
        self._stop_reason = reason

    @property
    def opened(self) -> Pair | None:
        """The loaded pair, None before `open` has run."""
        return self._pair

    @property
    def pair(self) -> Pair:
        """The loaded pair. Raises UsageError before `open` has run."""
        if self._pair is None:
            raise UsageError("the session is not open", hint="exhaust Session.open() first")
        return self._pair

    @property
    def pacing(self) -> Pacing:
        """The pacing of the next answer."""
        return self._pacing

    def open(self, check_prompt: PromptCheck | None = None) -> Generator[Event, None, None]:
        """Find, check and load the pair unless it is loaded. `check_prompt`: see open_pair. Raises SpecgenError."""
        if self._pair is None:
            yield from self._replace_pair(self._opener(self._target, self._draft, self._options, check_prompt))
        elif check_prompt:
            check_prompt(self._pair.tokenizer, self._pair.context_length)

    def change_draft(self, draft: str) -> Generator[Event, None, None]:
        """Load another draft, named as for the constructor. The target keeps its cache.

        Raises SpecgenError; then the old draft stays.
        """
        yield from self._replace_pair(with_draft(self.pair, resolve_draft(draft), self._options))

    def _replace_pair(self, opening: Generator[Event, None, Pair]) -> Generator[Event, None, None]:
        """Run `opening` and use its pair from now on."""
        with memory_errors():
            notices: list[Notice] = []
            pair = yield from _collect_notices(opening, notices)
        if self._pair is None or self._pair.earlier is not pair.earlier:
            self._answer_tokens = None
        self._pair, self.notices = pair, notices
        self._pacing = Pacing.new(self._options.num_draft_tokens)

    def share_rounds(self, count: int) -> int:
        """Let up to `count` answers of this open session share rounds. Returns how many the model and memory let share.

        Streams that are open at once then take turns: whichever needs a round runs it for all.
        """
        pair = self.pair
        plan = plan_pair(pair.checkpoint, None, pair.options, pair.placement.device)
        room = plan.free // max(1, plan.target.footprint.cache)
        return pair.scheduler.hold(max(1, min(count, room)))

    def generate(
        self,
        prompt: str,
        *,
        system: str | None = None,
        raw: bool = False,
        sampling: SamplingChoice | None = None,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        think: bool | None = None,
        constraint: Constraint | None = None,
    ) -> Iterator[Event]:
        """Answer one prompt. With `raw` the prompt is continued as it is, without the model's chat template.

        `think` switches a reasoning model's thinking on or off where its template can; None leaves the template's
        default. With a `constraint` the answer follows it; see Finished.complete.

        The stream ends in `Finished` or `Failed`. It may be closed early.
        """

        def events() -> Generator[Event, None, None]:
            _check_arguments(stop, max_new_tokens, constraint)
            if raw and system:
                raise UsageError(
                    "a system prompt needs the chat template", hint="leave out --raw, or the system prompt"
                )
            messages = [*([Message("system", system)] if system else []), Message("user", prompt)]

            def encode(tokenizer: Tokenizer) -> Prompt:
                return raw_prompt(tokenizer, prompt) if raw else chat_prompt(tokenizer, messages, think)

            def check_prompt(tokenizer: Tokenizer, context_length: int) -> None:
                refuse_long(tokenizer, prompt, context_length)
                check_length(len(encode(tokenizer).ids), context_length, self._options)

            yield from self.open(check_prompt)
            tokenizer = self.pair.tokenizer
            encoded = encode(tokenizer)
            if encoded.notice:
                yield Notice(encoded.notice)
            if translation := self.pair.translation:
                with contextlib.suppress(SpecgenError):  # a template may refuse; then the prompt is translated
                    translation.begin(Tokens(encoded.ids), encode(translation.tokens.draft_tokenizer).ids)
            plain = raw or tokenizer.chat_template is None
            for event in self.run(Tokens(encoded.ids), sampling, max_new_tokens, stop, encoded.thinking, constraint):
                yield with_messages(event, messages, raw=plain)

        return failing(events())

    def run(
        self,
        context: Tokens,
        sampling: SamplingChoice | None = None,
        max_new_tokens: int | None = None,
        stop: Sequence[str] = (),
        thinking: Tags | None = None,
        constraint: Constraint | None = None,
        logprobs: int | None = None,
    ) -> Generator[Event, None, None]:
        """Generate after `context`, from `Started` to `Finished`. The session must be open. Raises SpecgenError.

        `thinking` has the tags of a reasoning model. With `logprobs` every step has the log probabilities of its
        tokens and of that many likeliest alternatives.
        """
        pair = self.pair
        grammar = _check_arguments(stop, max_new_tokens, constraint)
        params = resolve_sampling(sampling or SamplingChoice(), pair.checkpoint.generation_config)
        limits = self._limits(len(context), max_new_tokens)
        self._stop_reason = None
        follower: Follower | None = None
        if grammar is not None:
            if self._vocabulary is None:
                yield Progress("reading the vocabulary")
                self._vocabulary = Vocabulary(pair.tokenizer, limits.end_ids)
            follower = self._vocabulary.follow(grammar, len(context), thinking)
        pacing = self.pacing
        self._read_history()
        yield self._started(params, len(context), pacing)
        drafter = self._drafter(follower, limits.length, pacing)
        sampler = Sampler(params, len(context), follower)
        rounds = pair.scheduler.rounds(drafter, context, sampler, limits, pacing.controller, logprobs)
        if pair.watch is not None:
            rounds = pair.watch.follow(rounds)
        stream = TextStream(pair.tokenizer.decode, stop, special_tokens(pair.tokenizer, thinking, stop, limits.end_ids))
        split = (
            ThinkingSplit(thinking)
            if grammar is None
            else ThinkingSplit(None if thinking is None or thinking.off else thinking, keep_blanks=True)
        )
        answer = Answer(stream, split, len(context), pair.tokenizer.token_bytes)
        with memory_errors(), _naming_models(pair):
            reason = yield from answer.steps(rounds, lambda: self._stop_reason)
        # The end token is allowed only where the grammar accepts the text.
        complete = grammar is None or reason == "end" or (not split.is_thinking and self._accepts(grammar, answer.text))
        if split.is_thinking and reason != "interrupted":
            yield Notice(_STILL_THINKING)
        yield Finished(reason, answer.text, answer.stats, complete)

    def _drafter(self, follower: Follower | None, length: int, pacing: Pacing) -> Drafter:
        """The pair's drafter. Under a constraint it also proposes the tokens that the grammar forces."""
        pair = self.pair
        if not self.speculating:
            return NoDrafter()
        if follower is None or pair.drafter_name == NONE or pacing.num_draft_tokens == 0:
            return pair.drafter
        return ForcedDrafter(pair.drafter, follower, length)

    def _read_history(self) -> None:
        """Let lookup find the answers that were logged since the last call; none if the history is not used."""
        pair = self.pair
        pair.earlier.enabled = self.uses_history and self.speculating
        if not pair.earlier.enabled or pair.drafter_name not in (LOOKUP, "hybrid"):
            return
        if self._answer_tokens is None:
            model = f"{pair.loaded_target.id}@{pair.loaded_target.revision or ''}"
            encode = functools.partial(pair.tokenizer.encode, special=False)
            self._answer_tokens = AnswerTokens(model, encode, pair.target.vocab_size, MOST_TOKENS)
        anew, answers = self._answer_tokens.refresh()
        if anew:
            pair.earlier.clear()
        if answers:
            pair.earlier.add(answers)

    def _accepts(self, grammar: str, text: str) -> bool:
        return self._vocabulary is not None and self._vocabulary.accepts(grammar, text)

    def _limits(self, prompt_tokens: int, max_new_tokens: int | None) -> Limits:
        pair = self.pair
        context_length = pair.context_length
        check_length(prompt_tokens, context_length, self._options)
        ends = end_ids(pair.checkpoint, pair.tokenizer)
        if max_new_tokens is not None and prompt_tokens + max_new_tokens <= context_length:
            return Limits(prompt_tokens + max_new_tokens, "length", ends)
        return Limits(context_length, "context", ends)

    def _started(self, params: SamplingParams, prompt_tokens: int, pacing: Pacing) -> Started:
        pair = self.pair
        return Started(
            target=pair.loaded_target,
            draft=pair.loaded_draft if self.speculating else None,
            drafter=pair.drafter_name if self.speculating else NONE,
            device=pair.placement.device.type,
            dtype=str(pair.placement.dtype).removeprefix("torch."),
            quant=pair.placement.quant,
            sampling=params,
            num_draft_tokens=pacing.num_draft_tokens,
            prompt_tokens=prompt_tokens,
        )


def _collect_notices(events: Generator[Event, None, Pair], notices: list[Notice]) -> Generator[Event, None, Pair]:
    """Pass `events` on and append their notices to `notices`."""
    while True:
        try:
            event = next(events)
        except StopIteration as finished:
            pair: Pair = finished.value
            return pair
        if isinstance(event, Notice):
            notices.append(event)
        yield event


@contextlib.contextmanager
def _naming_models(pair: Pair) -> Iterator[None]:
    """Add the model's name to NonFiniteLogits; the sampler knows only its role."""
    try:
        yield
    except NonFiniteLogits as error:
        checkpoint = pair.draft_checkpoint if error.role == "draft" else pair.checkpoint
        raise NonFiniteLogits(error.role, error.hint, checkpoint.ref.name if checkpoint else "") from error


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Turn torch's out-of-memory exceptions into OutOfMemory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # Only CUDA has a class for it, a RuntimeError. The allocators of CPU and MPS differ by message.
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(words in str(error) for words in ("can't allocate memory", "out of memory")):
            raise
        raise OutOfMemory(
            "the device has not enough memory for this pair and context",
            hint="try --dtype bfloat16, a smaller --ctx-size, --draft lookup, or a smaller model",
        ) from error


def _check_arguments(stop: Sequence[str], max_new_tokens: int | None, constraint: Constraint | None) -> str | None:
    """Refuse invalid arguments before anything is loaded. Returns the compiled grammar of `constraint`."""
    if "" in stop:
        raise UsageError("a stop string is empty", hint="leave it out")
    if max_new_tokens is not None and max_new_tokens < 1:
        raise UsageError(f"max_new_tokens is {max_new_tokens}", hint="ask for at least one token")
    return compile_grammar(constraint) if constraint else None
