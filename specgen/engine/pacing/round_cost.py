"""What a round costs on this machine: what was measured of late, never an assumption about the machine."""

from bisect import bisect_left
from collections import deque

# So few samples follow a machine whose speed changes; a sample so many rounds old speaks of a shorter context.
_SAMPLES = 7
_STALE = 256


class Samples:
    """The latest of one kind of duration, in seconds."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=_SAMPLES)

    def __bool__(self) -> bool:
        return bool(self._latest)

    def add(self, seconds: float) -> None:
        self._latest.append(seconds)

    @property
    def value(self) -> float:
        """The lower quartile, of few samples the least: what disturbs a measurement only ever lengthens it."""
        return sorted(self._latest)[(len(self._latest) - 1) // 4]


class Costs:
    """Seconds of a target's forward pass by its width, of a drafted token, and of all else in a round.

    The width of a pass is the number of tokens that it feeds.
    """

    def __init__(self) -> None:
        self._widths: dict[int, Samples] = {}
        self._measured_at: dict[int, int] = {}
        self._points: tuple[list[int], list[float]] = ([], [])
        self._prefills: deque[tuple[int, float]] = deque(maxlen=_SAMPLES)
        self._other = Samples()
        self._draft = Samples()
        self._reading = Samples()
        self._slope = 0.0
        self._rounds = 0

    def add_prefill(self, width: int, seconds: float) -> None:
        """The target read `width` tokens of a prompt."""
        if width > 1:
            self._prefills.append((width, seconds))

    def add_target(self, width: int, seconds: float) -> None:
        """A round verified `width` - 1 drafted tokens."""
        self._rounds += 1
        self._widths.setdefault(width, Samples()).add(seconds)
        self._measured_at[width] = self._rounds
        fresh = [each for each, at in self._measured_at.items() if each == 1 or self._rounds - at < _STALE]
        widths = sorted(fresh)
        values = [self._widths[each].value for each in widths]
        self._points = widths, values
        half = max(0, bisect_left(widths, widths[-1] // 2 + 1) - 1)
        self._slope = max(0.0, values[-1] - values[half]) / max(1, widths[-1] - widths[half])

    def add_draft(self, read: int, drafted: int, seconds: float) -> None:
        """The draft read `read` tokens and drafted `drafted`: reading the first of them drafts one."""
        if read <= 2 or not self._draft:
            self._draft.add(seconds / drafted)
        else:
            whole = self.target(read)
            self._reading.add(max(0.0, seconds - (drafted - 1) * self.draft) / whole)

    def add_other(self, seconds: float) -> None:
        """What a round took outside both models."""
        self._other.add(seconds)

    @property
    def known(self) -> bool:
        """Whether one-token rounds have been measured; before, nothing else means anything."""
        return 1 in self._widths

    @property
    def draft_known(self) -> bool:
        return bool(self._draft)

    @property
    def widest(self) -> int:
        """The widest round measured."""
        return self._points[0][-1]

    @property
    def other(self) -> float:
        return self._other.value if self._other else 0.0

    @property
    def draft(self) -> float:
        """Seconds of one drafted token."""
        return self._draft.value

    @property
    def plain(self) -> float:
        """Seconds of a round without a draft."""
        return self.target(1) + self.other

    def round(self, drafted: int, *, by_model: bool) -> float:
        """Seconds of a round that verifies `drafted` tokens."""
        return self.target(drafted + 1) + self.other + (self.draft * drafted if by_model else 0.0)

    def step(self, drafted: int) -> float:
        """Seconds that the last of `drafted` tokens adds to the verification."""
        return max(0.0, self.target(drafted + 1) - self.target(drafted))

    def target(self, width: int) -> float:
        """Seconds of a pass over `width` tokens: measured, or between its measured neighbours.

        Beyond the widest measured the time grows as it did last, or by the throughput of the prefills: a bent line
        does not unbend. That errs on the side of trying, and what is tried is measured.
        """
        widths, seconds = self._points
        at = bisect_left(widths, width)
        if at == len(widths):
            return max(seconds[-1] + (width - widths[-1]) * self._slope, width * self._throughput())
        if widths[at] == width or at == 0:
            return seconds[at]
        share = (width - widths[at - 1]) / (widths[at] - widths[at - 1])
        return seconds[at - 1] + share * (seconds[at] - seconds[at - 1])

    def reading(self, tokens: int) -> float:
        """Seconds that the draft needs to read `tokens`: the target's, at the ratio of the two models' speeds.

        Where the target never fed so many, each of them costs its share of the widest pass: much would be at stake.
        """
        ratio = self._reading.value if self._reading else self.draft / self.target(1)
        known = max(self.widest, *(width for width, _ in self._prefills), 1)
        return max(self.draft, ratio * self.target(min(tokens, known)) * max(1.0, tokens / known))

    def _throughput(self) -> float:
        """Seconds a token of a wide pass, from the longest prefill; the time of one token is mostly the weights'."""
        one = self._widths[1].value
        width, seconds = max(self._prefills, default=(2, one))
        return max(0.0, seconds - one) / (width - 1)
