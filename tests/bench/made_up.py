"""Measurements and contenders of which a test knows everything."""

from collections.abc import Sequence

from specgen.bench.measure import Decoding, Measurement
from specgen.bench.runner import Run
from specgen.bench.suites import SuitePrompt
from specgen.events import Stats


def measurement(
    speed: float, *, ids: Sequence[int] = (1, 2, 3, 4, 5), first_s: float = 1.0, accepted: int = 0, inside: bool = True
) -> Measurement:
    """One token in the first round, the others at `speed` tokens a second, one or two a round; 10 tokens drafted."""
    elapsed = (len(ids) - 1) / speed
    stats = Stats(
        prompt_tokens=9,
        generated_tokens=len(ids),
        rounds=len(ids) - accepted,
        drafted_tokens=10 if accepted else 0,
        accepted_tokens=accepted,
        time_to_first_token_s=first_s,
        first_round_tokens=1,
        elapsed_s=first_s + elapsed,
    )
    decoding = Decoding(elapsed, draft_s=0.25 * elapsed, verify_s=0.5 * elapsed, forward_s=0.625 * elapsed)
    return Measurement(tuple(ids), stats, decoding if inside else None)


def run(contender: str, prompt: str, made: Measurement, *, category: str = "chat", repetition: int = 0) -> Run:
    return Run(contender, SuitePrompt(prompt, category, f"text of {prompt}"), repetition, made)


class Somebody:
    """A contender that says `answer`, as far as it may, and remembers what it was asked."""

    def __init__(
        self,
        name: str,
        calls: list[tuple[str, int, int]],
        *,
        answer: Sequence[int] = (1, 2, 3, 4, 5),
        peer_of: str = "",
    ) -> None:
        self.name = name
        self.ours = not peer_of
        self.measures = (peer_of,) if peer_of else ()
        self._calls = calls
        self._answer = answer

    def run(self, prompt: Sequence[int], new: int) -> Measurement:
        self._calls.append((self.name, prompt[0], new))
        return measurement(10.0, ids=self._answer[:new], inside=self.ours)
