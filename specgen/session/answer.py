"""Turn the rounds of one answer into steps, and collect its text and statistics."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace

from specgen.checkpoint.tokenizer import Tokenizer
from specgen.core.events import Event, Logprobs, Notice, Reason, Span, Stats, Step, TokenLogprob
from specgen.engine.decode import Round
from specgen.engine.text.detokenizer import SpecialTokens, TextStream
from specgen.engine.text.thinking import Tags, ThinkingSplit


class Answer:
    """The `text` and `stats` of the steps so far. `bytes_of` gives the bytes of a token id."""

    def __init__(
        self,
        stream: TextStream,
        split: ThinkingSplit,
        prompt_tokens: int,
        bytes_of: Callable[[int], bytes],
    ) -> None:
        self._bytes_of = bytes_of
        self.stats = Stats(prompt_tokens=prompt_tokens)
        self._stream = stream
        self._split = split
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def steps(
        self,
        rounds: Iterator[Round],
        stopping: Callable[[], Reason | None],
    ) -> Generator[Event, None, Reason]:
        """Yield steps until the answer ends; returns the reason. `stopping` is asked after every round.

        The statistics leave out the time that the caller takes for a step, such as a slow reader of stdout.
        """
        elapsed, resumed = 0.0, time.perf_counter()
        reason: Reason | None = None
        while reason is None:
            asked = time.perf_counter()
            done = next(rounds)
            got = time.perf_counter()
            written = self._stream.write(done.tokens, done.sources)
            reason = "stop" if written.stopped else done.finish or stopping()
            step = _step(done, self._split.write(written.spans), written.used)
            if done.scores:
                step = replace(step, logprobs=self._logprobs(done, written.starts))
            # A round may have run while another answer asked for it.
            elapsed += done.round_s + time.perf_counter() - got + asked - resumed
            self.stats = self.stats.add(step, elapsed)
            self._texts.append(step.text)
            yield step
            if done.notice:
                yield Notice(done.notice)
            resumed = time.perf_counter()
        last: tuple[Span, ...] = ()
        if reason != "stop":
            written = self._stream.flush()
            reason = "stop" if written.stopped else reason
            last = self._split.write(written.spans)
        if last := (*last, *self._split.flush()):
            step = Step((), last)
            self._texts.append(step.text)
            yield step
        return reason

    def _logprobs(self, done: Round, starts: Sequence[int]) -> tuple[Logprobs, ...]:
        """The log probabilities of the first tokens of a round; `starts` are their character offsets."""

        def named(token: int, logprob: float) -> TokenLogprob:
            return TokenLogprob(token, logprob, tuple(self._bytes_of(token)))

        return tuple(
            Logprobs(start, named(token, scores.logprob), tuple(named(*other) for other in scores.top))
            for start, token, scores in zip(starts, done.tokens, done.scores, strict=False)
        )


def special_tokens(
    tokenizer: Tokenizer, thinking: Tags | None, stop: Sequence[str], end_ids: frozenset[int]
) -> SpecialTokens:
    """The special tokens that are thinking tags, or part of a stop string. End tokens end the answer anyway."""
    tags = (thinking.open, thinking.close) if thinking else ()
    wanted = {*tags, *(text for text in tokenizer.added_tokens() if any(text in each for each in stop))}
    ids = {token: text for text in wanted if (token := tokenizer.token_id(text)) is not None and token not in end_ids}
    skipped = {token: text for token, text in ids.items() if not tokenizer.decode([token])}
    return SpecialTokens(
        shown={token: text for token, text in skipped.items() if text in tags},
        matched={token: text for token, text in skipped.items() if text not in tags},
    )


def _step(done: Round, spans: tuple[Span, ...], used: int) -> Step:
    """The first `used` tokens of a round: a stop string may cut an accepted run."""
    return Step(
        tokens=done.tokens[:used],
        spans=spans,
        drafted=done.drafted,
        accepted=min(done.accepted, used),
        drafted_tokens=done.drafted_tokens,
        drafted_sources=done.drafted_sources,
        draft_s=done.draft_s,
        verify_s=done.verify_s,
    )
