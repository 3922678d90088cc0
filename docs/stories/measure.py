"""Measure the bundled story models on held-out openings, as their card reports them.

    python docs/stories/measure.py CORPUS            # the table: acceptance, repetition, speed-up
    python docs/stories/measure.py CORPUS --draft DIR    # the same with another draft
    python docs/stories/measure.py --samples         # what the card shows: three seeds, unpicked

CORPUS is the text that train.py learns from; only its held-out books are read.
"""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from train import read_books

from specgen import Session
from specgen.core.events import Failed, Finished, Stats
from specgen.core.types import EngineOptions, SamplingChoice

OPENINGS = 100
OPENING_WORDS = 12
NEW_TOKENS = 64
DRAFT_LENGTH = 3
GRAM = 4


def openings(corpus: Path) -> list[str]:
    """Give the first words of paragraphs spread evenly over the held-out books."""
    _, books = read_books(corpus)
    paragraphs = [text for book in books for text in book.split("\n") if len(text.split()) >= 2 * OPENING_WORDS]
    chosen = paragraphs[:: len(paragraphs) // OPENINGS][:OPENINGS]
    return [" ".join(text.split()[:OPENING_WORDS]) for text in chosen]


def run(session: Session, opening: str, choice: SamplingChoice, limit: int) -> tuple[str, Stats, float]:
    """Continue one opening: the text, the statistics and the seconds it took."""
    began = time.perf_counter()
    for event in session.generate(opening, raw=True, sampling=choice, max_new_tokens=limit):
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Finished):
            return event.text, event.stats, time.perf_counter() - began
    raise AssertionError("every stream ends in Finished or Failed")


def repeated(texts: Sequence[str]) -> float:
    """Give the share of 4-grams of words that stood in the same text before."""
    total = again = 0
    for text in texts:
        words = text.split()
        grams = Counter(tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1))
        total += grams.total()
        again += grams.total() - len(grams)
    return again / max(1, total)


def measure(plain: Session, drafted: Session, texts: Sequence[str], temperature: float | None) -> str:
    """Run every opening with and without the draft, one after the other, and give a row of the table."""
    results = []
    for number, opening in enumerate(texts):
        choice = SamplingChoice(temperature=temperature, seed=number)
        alone = run(plain, opening, choice, NEW_TOKENS)
        together = run(drafted, opening, choice, NEW_TOKENS)
        results.append((alone, together))
    pairs = [(alone[2] / together[2]) for alone, together in results if alone[1].generated_tokens >= NEW_TOKENS // 2]
    stats = [together[1] for _, together in results]
    rate = sum(s.accepted_tokens for s in stats) / sum(s.drafted_tokens for s in stats)
    length = sum(s.generated_tokens for s in stats) / sum(s.rounds for s in stats)
    same = sum(alone[0] == together[0] for alone, together in results)
    name = "greedy" if temperature == 0 else "default sampling"
    return (
        f"| {name} | {rate:.3f} | {length:.2f} | {repeated([together[0] for _, together in results]):.3f} "
        f"| {statistics.median(pairs):.2f} | {same}/{len(results)} |"
    )


def main() -> None:
    """Read the command line and print the table, or the samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, nargs="?", help="the text of the books")
    parser.add_argument("--draft", default="auto", help="another draft to measure")
    parser.add_argument("--samples", action="store_true", help="three samples, seeds 1 to 3")
    arguments = parser.parse_args()
    options = EngineOptions(num_draft_tokens=DRAFT_LENGTH, lookup=False)
    with Session("stories", "none", options) as plain, Session("stories", arguments.draft, options) as drafted:
        if arguments.samples:
            for seed in (1, 2, 3):
                text, _, _ = run(drafted, "Once upon a time", SamplingChoice(seed=seed), 120)
                print(f"Seed {seed}:\n\n> Once upon a time{text}\n".replace("\n\n\n", "\n\n"))
            return
        if arguments.corpus is None:
            parser.error("name the corpus, or ask for --samples")
        texts = openings(arguments.corpus)
        run(plain, texts[0], SamplingChoice(), NEW_TOKENS)
        run(drafted, texts[0], SamplingChoice(), NEW_TOKENS)
        print("| text | acceptance rate | mean acceptance length | repeated 4-grams | speed-up, median | same text |")
        print("| --- | --- | --- | --- | --- | --- |")
        for temperature in (0.0, None):
            print(measure(plain, drafted, texts, temperature), flush=True)


if __name__ == "__main__":
    main()
