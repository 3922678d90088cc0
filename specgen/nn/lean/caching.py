"""The invisible caches of the lean decoder: which tokens a call must feed, and in which passes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from specgen.core.tokens import Tokens
from specgen.nn.interface import ForwardCall, SharedParts, StateListener
from specgen.nn.lean.context_store import ContextStore
from specgen.nn.tap import Tap, check_layers

# Prompt tokens of a pass. It bounds the memory of masks and activations.
CHUNK = 256
# Prompt tokens that are fed with the scored tokens instead of in a pass of their own.
_FEW = 8
# Tokens that a context may lose to another one, or that are read again rather than copied.
_LITTLE = 64


@dataclass(slots=True, eq=False)
class Context:
    """Tokens with their keys and values."""

    tokens: Tokens = field(default_factory=Tokens)
    caches: list[torch.Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one context in a pass: `ids` from position `start` on, the final `last` of which are scored."""

    ids: list[int]
    start: int
    last: int
    caches: list[torch.Tensor]


class CachingModel(ABC):
    """A `LanguageModel` that keeps keys and values of the tokens it has fed, for each of `hold` contexts."""

    can_verify = True

    def __init__(self, vocab_size: int, context_length: int) -> None:
        self.vocab_size = vocab_size
        self.context_length = context_length
        self._contexts: list[Context] = []  # the least recently used first
        self._held = 1
        self._store, self._owner = ContextStore(0), object()
        self._tap = Tap()

    @property
    @abstractmethod
    def shared(self) -> SharedParts:
        """The parts that a head may borrow."""

    def tap(self, layers: Sequence[int], listener: StateListener | None) -> None:
        """See nn/interface.py."""
        check_layers(layers, self.shared.layers)
        self._tap = Tap(layers, listener)

    def begin_answer(self) -> None:  # noqa: B027  most models have nothing to do
        """Nothing: no bit depends on how a token was fed."""

    def keep_contexts(self, store: ContextStore) -> None:
        """From now on keep earlier contexts in `store`. Contexts in the former store are dropped."""
        self._store.clear(self._owner)
        self._store = store

    def hold(self, count: int) -> int:
        self._held = max(1, count)
        self._contexts = self._contexts[-self._held :]
        return self._held

    def cached(self, tokens: Tokens) -> int:
        kept = max((tokens.common_prefix(context.tokens) for context in self._contexts), default=0)
        return max(kept, self._store.longest_prefix(self._owner, tokens))

    def forward(self, tokens: Tokens, last: int) -> torch.Tensor:
        return self.forward_many([(tokens, last)])[0]

    @torch.inference_mode()
    def forward_many(self, calls: Sequence[ForwardCall]) -> list[torch.Tensor]:
        try:
            return self._forward_many(calls)
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        """Forget every context."""
        self._contexts = []
        self._store.clear(self._owner)

    def _forward_many(self, calls: Sequence[ForwardCall]) -> list[torch.Tensor]:
        contexts = self._choose([tokens for tokens, _ in calls])
        for context, (tokens, last) in zip(contexts, calls, strict=True):
            # This line rolls back: positions behind it are overwritten before any row sees them.
            context.tokens = tokens.prefix(min(tokens.common_prefix(context.tokens), len(tokens) - last))
            self._reserve(context, len(tokens))
        self._read_prompts(contexts, calls)
        logits: list[torch.Tensor] = []
        while len(logits) < len(calls):
            first, rows = len(logits), 0
            joined: list[tuple[Context, Tokens, int]] = []
            for context, (tokens, last) in zip(contexts[first:], calls[first:], strict=True):
                rows += len(tokens) - len(context.tokens)
                if joined and rows > CHUNK:
                    break
                joined.append((context, tokens, last))
            logits += self._feed(joined)
        return logits

    def _read_prompts(self, contexts: Sequence[Context], calls: Sequence[ForwardCall]) -> None:
        """Feed long prompts in passes that score nothing, joined where they are short.

        Rows that may be rejected are fed apart from the prompt, so that a draft does not change how it is read.
        """
        while True:
            room = CHUNK
            joined: list[tuple[Context, Tokens, int]] = []
            for context, (tokens, last) in zip(contexts, calls, strict=True):
                known = len(context.tokens)
                end = min(known + room, len(tokens) - last)
                if len(tokens) - known > max(last, _FEW) and end > known:
                    joined.append((context, tokens.prefix(end), 0))
                    room -= end - known
            if not joined:
                return
            self._feed(joined)

    def _feed(self, joined: Sequence[tuple[Context, Tokens, int]]) -> list[torch.Tensor]:
        """Feed what the contexts lack of their tokens in one pass; float32 [last, vocab] of each."""
        starts = [len(context.tokens) for context, _, _ in joined]
        parts = [
            Part(tokens.ids(start), start, last, context.caches)
            for (context, tokens, last), start in zip(joined, starts, strict=True)
            if start < len(tokens)
        ]
        logits, states = self._compute(parts) if parts else (torch.empty(0, self.vocab_size), ())
        first = 0
        for (context, tokens, _), start in zip(joined, starts, strict=True):
            context.tokens = tokens
            if start < len(tokens):
                self._tap.tell(tokens, start, [each[first:] for each in states])
            first += len(tokens) - start
        return list(torch.split(logits, [last for _, _, last in joined]))

    def _choose(self, wanted: Sequence[Tokens]) -> list[Context]:
        """A context for each of `wanted`, to roll back and continue."""
        free = list(self._contexts)
        continued = [_continued(tokens, free) for tokens in wanted]
        busy = [context for context in continued if context is not None]
        chosen: list[Context] = []
        for tokens, context in zip(wanted, continued, strict=True):
            chosen.append(context or self._begin(tokens, free, busy))
            if context is None:
                busy.append(chosen[-1])
        self._contexts = [*free, *chosen][-max(self._held, len(chosen)) :]
        return chosen

    def _begin(self, tokens: Tokens, free: list[Context], busy: Sequence[Context]) -> Context:
        """A context for a new answer: one of `free`, which is taken from there, or a new one."""
        nearest = max(free, key=lambda each: tokens.common_prefix(each.tokens), default=None)
        context = Context()
        if nearest is not None:
            shared = tokens.common_prefix(nearest.tokens)
            if len(nearest.tokens) - shared <= max(_LITTLE, shared):
                context = nearest
            elif len(free) + len(busy) >= self._held:
                context = free[0]
            if context in free:
                free.remove(context)
        context.tokens, context.caches = self._store.choose(self._owner, tokens, context.tokens, context.caches)
        source = max([context, *free, *busy], key=lambda each: tokens.common_prefix(each.tokens))
        shared = tokens.common_prefix(source.tokens)
        if shared > tokens.common_prefix(context.tokens) + _LITTLE:
            return Context(source.tokens.prefix(shared), [cache.clone() for cache in source.caches])
        return context

    @abstractmethod
    def _compute(self, parts: Sequence[Part]) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        """Feed all parts in one pass; float32 [sum of last, vocab], and the states [rows, size] of the tapped layers.

        A row's bits do not depend on the other parts.
        """

    @abstractmethod
    def _reserve(self, context: Context, length: int) -> None:
        """Make room for `length` positions in the caches of `context`."""


def _continued(tokens: Tokens, free: list[Context]) -> Context | None:
    """The context that `tokens` continues in the same log, which is taken from `free`."""
    same = [context for context in free if tokens.shares_log(context.tokens)]
    if not same:
        return None
    context = max(same, key=lambda each: tokens.common_prefix(each.tokens))
    free.remove(context)
    return context
