"""Models, drafters and a tokenizer with predictable answers."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.checkpoint.tokenizer import Tokenizer
from specgen.core.events import Event, Step
from specgen.core.tokens import Tokens
from specgen.core.types import EngineOptions, ModelRef, SamplingParams
from specgen.engine.decode import Limits, Round, decode
from specgen.engine.drafters.interface import Drafter, DraftPlan, NoDrafter, Proposal
from specgen.engine.pacing.controller import Controller, FixedController
from specgen.engine.sampling.sampler import Sampler
from specgen.nn.device import Placement
from specgen.nn.interface import ForwardCall, LanguageModel
from specgen.session.pair import Pair
from specgen.session.session import Session

VOCAB = 320
END = "<|end|>"
START = "<|start|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
_CORPUS = [
    "the quick brown fox jumps over the lazy dog and the lazy dog sleeps over there",
    "def parse(path): return the parser of the path, or raise the error",
    "user assistant system hello world, this is the answer to the question",
]


@cache
def backend() -> Backend:
    """A byte-level BPE of `VOCAB` tokens: two special ones, every byte, and some English words."""
    made = Backend(tokenizer_models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[END, START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(_CORPUS * 3, trainer)
    assert made.get_vocab_size() == VOCAB
    return made


def tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> Tokenizer:
    return Tokenizer(
        Backend.from_str(backend().to_str()), chat_template=chat_template, special_tokens={"eos_token": END}
    )


def encode(text: str) -> list[int]:
    return list(backend().encode(text).ids)


class _Fake:
    """A `LanguageModel` whose logits are a function of the ids. It counts fed tokens like a model with a cache."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.can_verify = True
        self.fed = 0
        """Number of tokens fed by all calls, if the tokens of the last call are cached."""
        self.calls: list[tuple[int, int]] = []
        """(length of the context, number of rows) of every call."""
        self.widths: list[int] = []
        """The rows of every call of `forward_many`."""
        self._cached = Tokens()

    def row(self, ids: Sequence[int]) -> torch.Tensor:
        """The logits after `ids`, float32 [vocab]."""
        raise NotImplementedError

    def begin_answer(self) -> None:
        pass

    def forward(self, tokens: Tokens, last: int) -> torch.Tensor:
        ids = tokens.ids()
        assert 0 <= last <= len(ids), "a forward pass needs a token for each of its rows"
        assert all(0 <= token < self.vocab_size for token in ids), "an id beyond the vocabulary cannot be fed"
        self.fed += len(ids) - min(tokens.common_prefix(self._cached), len(ids) - last)
        self.calls.append((len(ids), last))
        self._cached = tokens
        if not last:
            return torch.empty(0, self.vocab_size)
        return torch.stack([self.row(ids[:end]) for end in range(len(ids) - last + 1, len(ids) + 1)])

    def forward_many(self, calls: Sequence[ForwardCall]) -> list[torch.Tensor]:
        self.widths.append(sum(max(1, last) for _, last in calls))
        return [self.forward(tokens, last) for tokens, last in calls]

    def hold(self, count: int) -> int:
        return count

    def cached(self, tokens: Tokens) -> int:
        return tokens.common_prefix(self._cached)


class TableModel(_Fake):
    """Random logits that depend on the last `order` tokens and on `seed`.

    `noise` is the weight of a second draw. The model then agrees only sometimes with the one without noise.
    """

    def __init__(self, vocab_size: int, *, seed: int = 0, order: int = 1, spread: float = 1.0, noise: float = 0.0):
        super().__init__(vocab_size)
        self._order = order
        generator = torch.Generator().manual_seed(seed)
        shape = (vocab_size,) * order + (vocab_size,)
        self.table = torch.randn(shape, generator=generator) * spread
        self.table = self.table + torch.randn(shape, generator=generator) * noise

    def row(self, ids: Sequence[int]) -> torch.Tensor:
        known = [0] * self._order + list(ids)
        return self.table[tuple(known[len(known) - self._order :])]


class Speaker(_Fake):
    """A model that generates `script` after its prompt. Its logits depend on the position alone."""

    def __init__(self, script: Sequence[int], prompt_length: int, vocab_size: int = VOCAB) -> None:
        super().__init__(vocab_size)
        self._script = list(script)
        self._prompt_length = prompt_length

    def row(self, ids: Sequence[int]) -> torch.Tensor:
        at = max(0, len(ids) - self._prompt_length)
        logits = torch.zeros(self.vocab_size)
        logits[self._script[at] if at < len(self._script) else 0] = 20.0
        return logits


class Scripted:
    """A drafter that proposes the tokens that a function of the context returns, cut to the limit."""

    def __init__(self, script: Callable[[list[int]], Sequence[int]]) -> None:
        self._script = script
        self.proposals: list[Proposal] = []

    def propose(self, context: Tokens, plan: DraftPlan) -> Proposal:
        tokens = tuple(self._script(context.ids()))[: max(0, plan.limit)]
        self.proposals.append(Proposal(tokens, ("draft",) * len(tokens)))
        return self.proposals[-1]


def oracle(answer: Sequence[int], prompt_length: int) -> Scripted:
    """A drafter that proposes the target's answer."""
    return Scripted(lambda ids: answer[len(ids) - prompt_length :])


def always_wrong(answer: Sequence[int], prompt_length: int, vocab_size: int) -> Scripted:
    """A drafter whose every token is wrong."""
    return Scripted(lambda ids: [(token + 1) % vocab_size for token in answer[len(ids) - prompt_length :]])


def rounds(
    target: LanguageModel,
    prompt: Sequence[int],
    params: SamplingParams | None = None,
    *,
    drafter: Drafter | None = None,
    k: int = 0,
    new: int = 20,
    end_ids: Sequence[int] = (),
    controller: Controller | None = None,
) -> list[Round]:
    """The rounds of one run of `decode`, with `controller`, or with a fixed draft length `k` without one."""
    limits = Limits(len(prompt) + new, "length", frozenset(end_ids))
    sampler = Sampler(params or SamplingParams(), len(prompt))
    return list(
        decode(target, drafter or NoDrafter(), Tokens(prompt), sampler, limits, controller or FixedController(k))
    )


def tokens_of(done: Sequence[Round | Event]) -> list[int]:
    """The ids that rounds, or the steps among events, appended to the context."""
    return [token for each in done if isinstance(each, Round | Step) for token in each.tokens]


def steps(events: Sequence[Event] | Iterator[Event]) -> list[Step]:
    return [event for event in events if isinstance(event, Step)]


def fake_session(
    target: Any,
    drafter: Drafter | None = None,
    *,
    folder: Path,
    k: int = 4,
    context_length: int = 4096,
    chat_template: str | None = CHAT_TEMPLATE,
) -> Session:
    """An open session over fakes. `folder` may hold the target's config.json and generation_config.json."""
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text('{"eos_token_id": 0}')
    session = Session("fake", options=EngineOptions(num_draft_tokens=k))
    session._pair = Pair(
        target=target,
        checkpoint=Checkpoint(ModelRef("fake"), folder),
        tokenizer=tokenizer(chat_template),
        drafter=drafter or NoDrafter(),
        drafter_name="none" if drafter is None else "model",
        draft_checkpoint=None,
        placement=Placement(torch.device("cpu"), torch.float32),
        context_length=context_length,
    )
    return session
