"""The public interface: a loaded pair that turns prompts into streams of events."""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from typing import Self

import torch

from specgen.checkpoint.tokenizer import Tokenizer
from specgen.config.pairs import resolve, resolve_draft
from specgen.core.errors import OutOfMemory, SpecgenError, UsageError
from specgen.core.events import Event, Finished, LoadedModel, Notice, Progress, Reason, Started, failing, with_messages
from specgen.core.tokens import Tokens
from specgen.core.types import NONE, Constraint, EngineOptions, Message, SamplingChoice, SamplingParams
from specgen.engine.decode import Limits, decode
from specgen.engine.drafters.forced import ForcedDrafter
from specgen.engine.drafters.interface import Drafter, NoDrafter
from specgen.engine.pacing.controller import Controller, make_controller
from specgen.engine.sampling.constraint import Follower, Vocabulary
from specgen.engine.sampling.grammar import compile_grammar
from specgen.engine.sampling.sampler import Sampler
from specgen.engine.text.detokenizer import TextStream
from specgen.engine.text.thinking import Tags, ThinkingSplit
from specgen.session.answer import Answer
from specgen.session.generation_defaults import end_ids, resolve_sampling
from specgen.session.loading import Opener, Pair, PromptCheck, find_again, open_pair, with_draft
from specgen.session.prompt import Prompt, chat_prompt, raw_prompt, refuse_long, too_long


class Session:
    """A target and its drafter, opened at the first use and kept.

    target: the name of a curated pair, a hub id `org/name[@revision]`, a local folder, or a `.gguf` file. draft: the
    same, or `lookup` (n-grams of the prompt and the output), `none`, or `auto`: the draft of the curated pair, else a
    smaller model of the target's family, else `lookup`. `opener` loads the pair. One session runs one generation at a
    time.
    """

    def __init__(
        self, target: str, draft: str = "auto", options: EngineOptions | None = None, *, opener: Opener = open_pair
    ) -> None:
        self.target = target
        self._target, self._draft = resolve(target), resolve_draft(draft)
        self._asked = self._options = options or EngineOptions()
        self._opener = opener
        self._pair: Pair | None = None
        self._vocabulary: Vocabulary | None = None
        self._controller = make_controller(self._options.num_draft_tokens)
        self._caller: tuple[EngineOptions, dict[int | None, Controller]] | None = None
        self._stopping: Reason | None = None
        self._files: tuple[LoadedModel | None, ...] = ()
        self.notices: list[Notice] = []
        """What there was to say when the pair was opened."""
        self.speculating = True
        """Whether the drafter is asked; the text is the same without it."""

    @classmethod
    def over(cls, pair: Pair, options: EngineOptions, controller: Controller | None = None) -> Self:
        """A session over a pair that is loaded already. Several may share it, one generation at a time.

        `controller` has learned about draft lengths from others; None begins anew.
        """
        session = cls(pair.checkpoint.ref.source, "none", options)
        session._pair = pair
        session._controller = controller or session._controller
        return session

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the models."""
        self._pair = self._vocabulary = None

    def stop(self, reason: Reason = "interrupted") -> None:
        """End the running generation after the current round, from another thread or a signal handler."""
        self._stopping = reason

    @property
    def opened(self) -> Pair | None:
        """The loaded pair, if it is loaded."""
        return self._pair

    @property
    def pair(self) -> Pair:
        """The loaded pair. Raises UsageError before `open` has run."""
        if self._pair is None:
            raise UsageError("the session is not open", hint="exhaust Session.open() first")
        return self._pair

    def open(self, examine: PromptCheck | None = None) -> Generator[Event, None, None]:
        """Find, check and load the pair if that has not been done; raises SpecgenError. `examine` see open_pair."""
        if self._pair is None:
            self.notices.clear()
            with memory_errors():
                opening = self._opener(self._target, self._draft, self._asked, examine)
                self._take((yield from _noting(opening, self.notices)))
        elif examine:
            examine(self._pair.tokenizer, self._pair.context_length)

    def is_current(self) -> Generator[Event, None, bool]:
        """Whether the pair, which is open, is what would be opened now: pins move, and files change."""
        pair = self.pair
        try:
            for checkpoint in filter(None, (pair.checkpoint, pair.draft_checkpoint)):
                if (yield from find_again(checkpoint, self._options)) != checkpoint:
                    return False
            return self._files == (pair.loaded_target, pair.loaded_draft)
        except (SpecgenError, OSError):  # gone, or broken: opening it again says so
            return False

    @contextlib.contextmanager
    def drafting(self, options: EngineOptions, controllers: dict[int | None, Controller]) -> Iterator[None]:
        """Meanwhile draft as a caller wishes that shares the pair with others.

        Of `options` the draft length alone counts; `controllers`, by draft length, have learnt from its answers.
        """
        self._caller = options, controllers
        try:
            yield
        finally:
            self._caller = None

    def open_on(self, pair: Pair) -> Generator[Event, None, None]:
        """Open with the target of `pair`, which is loaded, and go on with its cache; raises SpecgenError.

        Nothing else may use that target from then on.
        """
        with memory_errors():
            self.notices.clear()
            self._take((yield from _noting(with_draft(pair, self._draft, self._asked), self.notices)))

    def change_draft(self, draft: str) -> Generator[Event, None, None]:
        """Go on with another draft, named as for the constructor; the target stays as it is, with its cache.

        Raises SpecgenError, and then the old draft stays.
        """
        with memory_errors():
            self._take((yield from with_draft(self.pair, resolve_draft(draft), self._asked)))

    def _take(self, pair: Pair) -> None:
        self._pair, self._options = pair, pair.options
        self._files = pair.loaded_target, pair.loaded_draft
        self._controller = make_controller(self._options.num_draft_tokens)

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
        """Answer one prompt. With `raw` it is continued as it is, else it is put into the model's chat template.

        `think` switches a reasoning model's thinking on or off where its template can; None leaves it to the template.
        With a `constraint` the answer keeps to it, see Finished.complete.

        The stream ends in `Finished` or `Failed`; closing it early is always safe.
        """

        def work() -> Generator[Event, None, None]:
            _check(stop, max_new_tokens, constraint)
            if raw and system:
                raise UsageError(
                    "a system prompt needs the chat template", hint="leave out --raw, or the system prompt"
                )
            messages = [*([Message("system", system)] if system else []), Message("user", prompt)]

            def encode(tokenizer: Tokenizer) -> Prompt:
                return raw_prompt(tokenizer, prompt) if raw else chat_prompt(tokenizer, messages, think)

            def examine(tokenizer: Tokenizer, longest: int) -> None:
                refuse_long(tokenizer, prompt, longest)
                _check_length(len(encode(tokenizer).ids), longest)

            yield from self.open(examine)
            tokenizer = self.pair.tokenizer
            made = encode(tokenizer)
            if made.notice:
                yield Notice(made.notice)
            plain = raw or tokenizer.chat_template is None
            for event in self.run(Tokens(made.ids), sampling, max_new_tokens, stop, made.thinking, constraint):
                yield with_messages(event, messages, raw=plain)

        return failing(work())

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
        """Generate after `context`, from `Started` to `Finished`. The session is open. Raises SpecgenError.

        `thinking` has the tags of a model that thinks aloud. With `logprobs` steps have those of their tokens, and of
        so many of the likeliest tokens beside each.
        """
        pair = self.pair
        grammar = _check(stop, max_new_tokens, constraint)
        params = resolve_sampling(sampling or SamplingChoice(), pair.checkpoint.generation_config)
        limits = self._limits(len(context), max_new_tokens)
        self._stopping = None
        follower: Follower | None = None
        if grammar is not None:
            if self._vocabulary is None:
                yield Progress("reading the vocabulary")
                self._vocabulary = Vocabulary(pair.tokenizer, limits.end_ids)
            follower = self._vocabulary.follow(grammar, len(context))
        yield self._started(params, len(context))
        rounds = decode(
            pair.target,
            self._drafter(follower, limits.length),
            context,
            Sampler(params, len(context), follower),
            limits,
            self._steering(),
            logprobs,
        )
        tokenizer = pair.tokenizer
        stream = TextStream(tokenizer.decode, stop)
        answer = Answer(stream, ThinkingSplit(thinking), len(context), tokenizer.token_bytes)
        with memory_errors():
            reason = yield from answer.steps(rounds, lambda: self._stopping)
        # The end token is allowed only where the grammar lets the text end.
        complete = grammar is None or reason == "end" or self._accepts(grammar, answer.text)
        yield Finished(reason, answer.text, answer.stats, complete)

    @property
    def _draft_length(self) -> int | None:
        """Draft tokens of every round, the caller's wish where one shares the pair; None: as many as pay."""
        return (self._caller[0] if self._caller else self._options).num_draft_tokens

    def _steering(self) -> Controller:
        if self._caller is None:
            return self._controller
        length, controllers = self._draft_length, self._caller[1]
        return controllers.setdefault(length, make_controller(length))

    def _drafter(self, follower: Follower | None, length: int) -> Drafter:
        """The pair's drafter, helped along a constraint where anything is drafted."""
        pair = self.pair
        if not self.speculating:
            return NoDrafter()
        if follower is None or pair.drafter_name == NONE or self._draft_length == 0:
            return pair.drafter
        return ForcedDrafter(pair.drafter, follower, length)

    def _accepts(self, grammar: str, text: str) -> bool:
        return self._vocabulary is not None and self._vocabulary.accepts(grammar, text)

    def _limits(self, prompt_tokens: int, max_new_tokens: int | None) -> Limits:
        pair = self.pair
        longest = pair.context_length
        _check_length(prompt_tokens, longest)
        ends = end_ids(pair.checkpoint, pair.tokenizer)
        if max_new_tokens is not None and prompt_tokens + max_new_tokens <= longest:
            return Limits(prompt_tokens + max_new_tokens, "length", ends)
        return Limits(longest, "context", ends)

    def _started(self, params: SamplingParams, prompt_tokens: int) -> Started:
        pair = self.pair
        return Started(
            target=pair.loaded_target,
            draft=pair.loaded_draft if self.speculating else None,
            drafter=pair.drafter_name if self.speculating else NONE,
            device=pair.placement.device.type,
            dtype=str(pair.placement.dtype).removeprefix("torch."),
            quant="int8" if pair.placement.int8 else "none",
            sampling=params,
            num_draft_tokens=self._draft_length,
            prompt_tokens=prompt_tokens,
        )


def _noting(events: Generator[Event, None, Pair], notices: list[Notice]) -> Generator[Event, None, Pair]:
    """`events`, with every notice kept in `notices`."""
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
def memory_errors() -> Iterator[None]:
    """What torch raises when memory runs out, as OutOfMemory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # Only CUDA has a class for it (a RuntimeError); the CPU's and MPS's allocators say it in words.
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(words in str(error) for words in ("can't allocate memory", "out of memory")):
            raise
        raise OutOfMemory(
            "the device has not enough memory for this pair and context",
            hint="try --dtype bfloat16, a smaller --ctx-size, --draft lookup, or a smaller model",
        ) from error


def _check(stop: Sequence[str], max_new_tokens: int | None, constraint: Constraint | None) -> str | None:
    """Refuse what can be refused before anything is loaded. Returns the grammar of `constraint`."""
    if "" in stop:
        raise UsageError("a stop string is empty", hint="leave it out")
    if max_new_tokens is not None and max_new_tokens < 1:
        raise UsageError(f"max_new_tokens is {max_new_tokens}", hint="ask for one token at least")
    return compile_grammar(constraint) if constraint else None


def _check_length(prompt_tokens: int, longest: int) -> None:
    if prompt_tokens == 0:
        raise UsageError("the prompt is empty", hint="give the model something to read")
    if prompt_tokens >= longest:
        raise too_long(str(prompt_tokens), longest)
