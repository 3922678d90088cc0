"""Measure what earlier answers bring on repeated work, and what they cost where nothing repeats.

    python docs/bench/repeated.py TARGET                # every workload, -n 96
    python docs/bench/repeated.py TARGET --only form -n 48

Each workload is a list of prompts that are answered in turn by lookup, with and without the answers before. A speed-up
is the time of plain decoding over that of the same answers with lookup, prompts included. The texts are compared.
"""

import argparse
import os
import tempfile
import time

from specgen.core.events import Finished
from specgen.core.types import EngineOptions, Message, SamplingChoice
from specgen.history.store import History, location
from specgen.session.session import Session

CODE = """def total(items, rate):
    result = 0
    for item in items:
        if item.price is None:
            continue
        result += item.price * item.count
    return result * (1 + rate)
"""
VERSIONS = [("rate", "tax"), ("result", "amount"), ("item.count", "item.number"), ("None", "0"), ("total", "sum_of")]
CITIES = ["Oslo", "Lima", "Cairo", "Kyoto", "Quito", "Delhi", "Porto", "Perth", "Dakar", "Turin"]


def versions() -> list[str]:
    """The same question over ten versions of a file."""
    files = [CODE]
    for old, new in VERSIONS + [(new, old) for old, new in VERSIONS[:4]]:
        files.append(files[-1].replace(old, new))
    return [f"Add type annotations to this code. Answer with the whole code.\n\n{file}" for file in files]


def form() -> list[str]:
    """A form of JSON over records."""
    ask = 'Answer with JSON with the keys "name", "city", "age", "occupation" and "summary".\n\n'
    return [f"{ask}Person {n} lives in {CITIES[n % 10]} and is {20 + n} years old, a baker." for n in range(30)]


def loop() -> list[str]:
    """An edit-test loop: the same file with another failure."""
    failures = ["price is text", "items is None", "rate is negative", "count is missing", "the result is not rounded"]
    return [f"This code fails if {why}. Fix it and answer with the whole code.\n\n{CODE}" for why in failures]


def new() -> list[str]:
    """Questions that have nothing in common."""
    subjects = ["the tides", "a good soup", "chess openings", "the French Revolution", "sorting", "honey bees"]
    return [f"Tell me about {subject}." for subject in subjects]


WORKLOADS = {each.__name__: each for each in (versions, form, loop, new)}


def answer(session: Session, prompts: list[str], tokens: int, *, log: bool) -> tuple[list[str], int, int, float]:
    """(texts, tokens, passes, seconds) of the answers. With `log` each is in the history of the next."""
    texts, generated, passes = [], 0, 0
    began = time.perf_counter()
    for prompt in prompts:
        events = session.generate(prompt, sampling=SamplingChoice(temperature=0), max_new_tokens=tokens)
        *_, last = events
        if not isinstance(last, Finished):
            raise SystemExit(str(last))
        texts.append(last.text)
        generated, passes = generated + last.stats.generated_tokens, passes + last.stats.rounds
        if log:
            with History(location()) as history:
                history.add(
                    kind="run",
                    messages=[Message("user", prompt)],
                    output=last.text,
                    reason=last.reason,
                    settings={},
                    stats={"rounds": last.stats.rounds},
                )
    return texts, generated, passes, time.perf_counter() - began


def main() -> None:
    """Print a table with a row for each workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("-n", type=int, default=96, help="tokens of an answer")
    parser.add_argument("--only", choices=WORKLOADS, help="one workload")
    parser.add_argument("--most", type=int, default=30, help="prompts of a workload")
    arguments = parser.parse_args()
    session = Session(arguments.target, "lookup", EngineOptions(offline=True))
    for _ in session.open():
        pass
    print("| workload | plain, s | lookup: tokens a pass | speed-up | with history: tokens a pass | speed-up | texts |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, make in WORKLOADS.items():
        if arguments.only not in (None, name):
            continue
        prompts = make()[: arguments.most]
        runs = []
        for drafting, history in ((False, False), (True, False), (True, True)):
            with tempfile.TemporaryDirectory() as folder:
                os.environ["SPECGEN_DATA_DIR"] = folder
                session.speculating, session.uses_history = drafting, history
                runs.append(answer(session, prompts, arguments.n, log=history))
        (plain, _, _, seconds), *drafted = runs
        same = "same" if all(texts == plain for texts, *_ in drafted) else "DIFFERENT"
        cells = [f"{count / passes:.2f} | {seconds / taken:.2f}" for _, count, passes, taken in drafted]
        print(f"| {name} | {seconds:.1f} | {' | '.join(cells)} | {same} |", flush=True)


if __name__ == "__main__":
    main()
