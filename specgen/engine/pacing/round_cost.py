"""The seconds that a round takes on this machine, from recent measurements."""

from bisect import bisect_left
from collections import deque
from itertools import accumulate

# The constants below were set by hand; tests/engine/pacing/ bounds what they cost on simulated machines.
# Samples kept of each kind: few, because the machine's speed drifts.
_SAMPLES = 7
# Age in rounds at which a sample is dropped: the context was shorter then.
_STALE = 256
# Largest ratio of two samples that confirm each other.
_AGREEING = 1.5


class Durations:
    """The latest samples of one duration, in seconds."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=_SAMPLES)

    def __bool__(self) -> bool:
        return bool(self._latest)

    def add(self, seconds: float) -> None:
        self._latest.append(seconds)

    @property
    def value(self) -> float:
        """Lower quartile, in seconds (the minimum of fewer than five): noise only adds time."""
        return sorted(self._latest)[(len(self._latest) - 1) // 4]

    @property
    def confirmed(self) -> bool:
        """Whether two samples agree on the least time.

        The first runs of anything are cold: code is compiled, memory allocated, a file read. A single sample, or one
        far below all others, may be followed by a much lower one.
        """
        least = sorted(self._latest)[:2]
        return len(least) == 2 and least[1] <= _AGREEING * least[0]


class RoundCost:
    """Seconds of a target pass by its width, of a drafted token, and of the rest of a round.

    The width of a pass is the number of tokens that it feeds: k + 1 for k drafted tokens.
    """

    def __init__(self) -> None:
        self._widths: dict[int, Durations] = {}
        self._measured_at: dict[int, int] = {}
        self._points: tuple[list[int], list[float]] = ([], [])
        self._prefills: deque[tuple[int, float]] = deque(maxlen=_SAMPLES)
        self._other = Durations()
        self._draft = Durations()
        self._draft_known = False
        # Time that the draft takes to read some tokens, as a fraction of the target's time for as many.
        self._read_ratio = Durations()
        self._slope = 0.0
        self._rounds = 0

    def add_prefill(self, width: int, seconds: float) -> None:
        """The target read `width` tokens of a prompt in `seconds`."""
        if width > 1:
            self._prefills.append((width, seconds))

    def add_target(self, width: int, seconds: float) -> None:
        """A round verified `width` - 1 drafted tokens in `seconds`."""
        self._rounds += 1
        self._widths.setdefault(width, Durations()).add(seconds)
        self._measured_at[width] = self._rounds
        fresh = [each for each, at in self._measured_at.items() if each == 1 or self._rounds - at < _STALE]
        widths = sorted(fresh)
        # A wider pass is never faster. Where it seems so, the narrower one was cold.
        values = list(accumulate((self._widths[each].value for each in reversed(widths)), min))[::-1]
        self._points = widths, values
        half = max(0, bisect_left(widths, widths[-1] // 2 + 1) - 1)
        self._slope = max(0.0, values[-1] - values[half]) / max(1, widths[-1] - widths[half])

    def add_draft(self, read: int, drafted: int, seconds: float) -> None:
        """The draft read `read` tokens and drafted `drafted` in `seconds`. Reading drafts the first of them."""
        if read <= 2 or not self._draft_known:
            self._draft.add(seconds / drafted)
            self._draft_known = self._draft_known or self._draft.confirmed
        else:
            whole = self.target(read)
            self._read_ratio.add(max(0.0, seconds - (drafted - 1) * self.draft) / whole)

    def add_other(self, seconds: float) -> None:
        """A round spent `seconds` outside both models."""
        self._other.add(seconds)

    @property
    def draft_timed(self) -> bool:
        """Whether a drafted token has been timed."""
        return bool(self._draft)

    @property
    def draft_known(self) -> bool:
        """Whether the time of a drafted token has been measured, and confirmed."""
        return self._draft_known

    @property
    def widest(self) -> int:
        """The widest pass measured, in tokens."""
        return self._points[0][-1]

    @property
    def other(self) -> float:
        """Seconds of a round outside both models."""
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
        """Seconds of a round that verifies `drafted` tokens, drafted `by_model` or by lookup."""
        return self.target(drafted + 1) + self.other + (self.draft * drafted if by_model else 0.0)

    def verify_step(self, drafted: int) -> float:
        """Seconds that the last of `drafted` tokens adds to the target's pass."""
        return max(0.0, self.target(drafted + 1) - self.target(drafted))

    def target(self, width: int) -> float:
        """Seconds of a pass over `width` tokens, measured or interpolated.

        Beyond the widest measured width the time continues with the last slope, or with the throughput of prefills if
        that is slower. The estimate errs on the low side, so that a wider pass is tried and measured.
        """
        widths, seconds = self._points
        at = bisect_left(widths, width)
        if at == len(widths):
            return max(seconds[-1] + (width - widths[-1]) * self._slope, width * self._prefill_token())
        if widths[at] == width or at == 0:
            return seconds[at]
        share = (width - widths[at - 1]) / (widths[at] - widths[at - 1])
        return seconds[at - 1] + share * (seconds[at] - seconds[at - 1])

    def reading(self, tokens: int) -> float:
        """Seconds that the draft takes to read `tokens`: the target's time, scaled by the ratio of their speeds.

        Beyond the widest pass of the target the time is proportional to `tokens`: a low estimate would be expensive.
        """
        ratio = self.draft / self.target(1)
        if self._read_ratio.confirmed:
            ratio = self._read_ratio.value
        elif self._read_ratio:
            ratio = min(ratio, self._read_ratio.value)
        known = max(self.widest, *(width for width, _ in self._prefills), 1)
        return max(self.draft, ratio * self.target(min(tokens, known)) * max(1.0, tokens / known))

    def _prefill_token(self) -> float:
        """Seconds that one more token adds to a wide pass: the least of long prefills without their first token.

        The first token pays for reading the weights. A pass over n tokens that took longer than n passes over one was
        cold, and says nothing about the next.
        """
        one = self._points[1][0]
        warm = [(width, seconds) for width, seconds in self._prefills if seconds <= width * one]
        longest = max(warm, default=(0, 0.0))[0]
        added = [max(0.0, seconds - one) / (width - 1) for width, seconds in warm if 2 * width >= longest]
        return min(added, default=0.0)
