"""The target as a teacher: the states and the likeliest tokens of an answer, computed once and kept in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from specgen.core.tokens import Tokens
from specgen.nn.interface import Runner
from specgen.train.answers import TrainingAnswer

# Positions whose scores over the whole vocabulary are in memory at a time.
_PIECE = 128
# Likeliest tokens of a position that are kept. The others have less than a hundredth of the probability together.
_LIKELIEST = 64
# Memory of the lessons that are kept, in bytes. Reading an answer takes three times as long as learning from it.
_MEMORY = 1 << 30


@dataclass(frozen=True, slots=True)
class Lesson:
    """An answer as a head reads it. Row i pairs the state at position i with token i + 1, and is about token i + 2.

    states: bfloat16 [rows, all states together]. following: int64 [rows], the tokens i + 1. likeliest: int64
    [rows, tokens], the places of the target's likeliest tokens in the head's vocabulary, and logs: float32, their
    log-probabilities among that vocabulary. mass: float32 [rows], the probability of the vocabulary together. picks:
    int64 [rows], the target's likeliest token. first: the first row that is about a token of the answer.
    """

    states: torch.Tensor
    following: torch.Tensor
    likeliest: torch.Tensor
    logs: torch.Tensor
    mass: torch.Tensor
    picks: torch.Tensor
    first: int

    @property
    def nbytes(self) -> int:
        tensors = (self.states, self.following, self.likeliest, self.logs, self.mass, self.picks)
        return sum(each.nbytes for each in tensors)


class Teacher:
    """Reads answers with the target, whose tap it takes. `ids` are the target's ids of the head's vocabulary."""

    def __init__(self, target: Runner, layers: Sequence[int], ids: torch.Tensor) -> None:
        self._target = target
        self._ids = ids
        self._width = len(layers) * target.shared.hidden_size
        self._states = torch.empty(0)
        self._lessons: dict[tuple[str, int], Lesson] = {}
        self._bytes = 0
        target.tap(layers, self._listen)

    def _listen(self, tokens: Tokens, start: int, states: Sequence[torch.Tensor]) -> None:
        rows = self._states[start : len(tokens)]
        rows.copy_(torch.cat(tuple(states), -1)[: len(rows)])

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """float32 [rows, hidden_size]: the target's embeddings, in memory from which gradients can be computed."""
        with torch.inference_mode():
            found = self._target.shared.embed(ids)
        return torch.empty(found.shape, device=found.device).copy_(found)

    def read(self, answer: TrainingAnswer, longest: int) -> Lesson:
        """The lesson of the first `longest` tokens of an answer."""
        key = (answer.key, answer.variant)
        if key not in self._lessons:
            lesson = self._read(answer.ids[:longest], max(0, answer.prompt - 2))
            if self._bytes + lesson.nbytes > _MEMORY:
                return lesson
            self._bytes += lesson.nbytes
            self._lessons[key] = lesson
        return self._lessons[key]

    def _read(self, ids: Sequence[int], first: int) -> Lesson:
        device, count = self._target.shared.device, len(ids)
        likeliest = min(_LIKELIEST, len(self._ids))
        # Normal memory, not that of inference mode, because gradients are computed from it.
        self._states = torch.empty(count, self._width, dtype=torch.bfloat16, device=device)
        places = torch.empty(count, likeliest, dtype=torch.int64, device=device)
        logs = torch.empty(count, likeliest, device=device)
        mass = torch.empty(count, device=device)
        picks = torch.empty(count, dtype=torch.int64, device=device)
        # Another first token empties the cache, so that states come for every row.
        self._target.forward(Tokens([0 if ids[0] else 1]), 1)
        whole = Tokens(ids)
        with torch.inference_mode():
            for start in range(0, count, _PIECE):
                part = slice(start, min(start + _PIECE, count))
                rows = self._target.forward(whole.prefix(part.stop), part.stop - start)
                picks[part] = rows.argmax(-1)
                known = rows[:, self._ids]
                total = known.logsumexp(-1)
                mass[part] = (total - rows.logsumexp(-1)).exp()
                found = known.topk(likeliest, -1)
                logs[part], places[part] = found.values - total[:, None], found.indices
        # No row is about the first two tokens: the scores of row i stand at position i + 1.
        following = torch.tensor(ids[1:], device=device)
        return Lesson(self._states[:-1], following, places[1:], logs[1:], mass[1:], picks[1:], first)
