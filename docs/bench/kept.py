"""Measure what the background process gains: the table of docs/serve.md.

    python docs/bench/kept.py stories                # first token, and speed through the background process
    python docs/bench/kept.py TARGET DRAFT --long    # also ten questions about a long text
    python docs/bench/kept.py stories --http 1000    # also 1000 requests from 8 callers

It uses its own runtime folder, so a running server does not interfere.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from startup import seconds_to_first_byte

from specgen import Session
from specgen.core.events import Failed, Step
from specgen.core.types import EngineOptions, SamplingChoice
from specgen.serve.background.client import BackgroundSession

RUNS = 10
TOKENS = 64
QUESTIONS = 10
LONG_WORDS = 1_000  # some 1,500 tokens of prose
CALLERS = 8
STORY = "The old king had three sons, and"


def row(name: str, figure: str) -> None:
    """Print a line of the table."""
    print(f"{name:38} {figure}", flush=True)


def start_up(models: list[str]) -> None:
    """Time the first byte of a new command, and of the Python start below it."""
    specgen = [sys.executable, "-m", "specgen"]
    ask = [*specgen, *models, "-n", "1", "--temp", "0", "hi"]
    seconds_to_first_byte(ask)
    commands = {
        "python alone": [sys.executable, "-c", "print()"],
        "specgen --version": [*specgen, "--version"],
        'specgen "hi", kept loaded': ask,
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, command in commands.items():
            times[name].append(seconds_to_first_byte(command))
    alone = [seconds_to_first_byte([*ask, "--keep-alive", "off"]) for _ in range(3)]
    for name, taken in {**times, 'specgen "hi", --keep-alive off': alone}.items():
        row(name, f"{statistics.median(taken):.2f} s to the first byte")


def answer(session: Session | BackgroundSession, prompt: str, limit: int) -> tuple[float, float]:
    """Return seconds to the first token, and tokens per second after it."""
    began = time.perf_counter()
    first, tokens = 0.0, 0
    for event in session.generate(prompt, sampling=SamplingChoice(temperature=0.0), max_new_tokens=limit):
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Step) and event.tokens:
            first = first or time.perf_counter()
            tokens += len(event.tokens)
    return first - began, (tokens - 1) / max(time.perf_counter() - first, 1e-9)


def several_pairs(target: str) -> None:
    """Compare the tokens per second of the third pair that the process loaded with those of the first, in turn."""
    # Pairs that differ in the context length alone do the same work.
    lengths = (1_000, 1_001, 1_002)
    sessions = [BackgroundSession(target, "none", EngineOptions(ctx_size=length), 600) for length in lengths]
    for session in sessions:
        answer(session, STORY, 8)
    pairs = [(answer(sessions[2], STORY, TOKENS)[1], answer(sessions[0], STORY, TOKENS)[1]) for _ in range(RUNS)]
    ratio = statistics.median(third / first for third, first in pairs)
    row("tokens a second, third pair over first", f"{ratio:.2f}")


def throughput(target: str, draft: str) -> None:
    """Compare tokens per second through the background process with those in this process, in turn."""
    options = EngineOptions(num_draft_tokens=3)  # fixed, so that both do the same work
    with BackgroundSession(target, draft, options, 600) as warm, Session(target, draft, options) as here:
        for session in (warm, here):
            answer(session, STORY, 8)
        pairs = [(answer(warm, STORY, TOKENS)[1], answer(here, STORY, TOKENS)[1]) for _ in range(RUNS)]
    ratio = statistics.median(one / other for one, other in pairs)
    here_speed = statistics.median(other for _, other in pairs)
    row("tokens a second over in-process", f"{ratio:.2f} ({here_speed:.1f} tok/s in-process)")


def questions(target: str, draft: str) -> None:
    """Time the first token of ten questions about one long text. Only the first question reads the text."""
    prose = (Path(__file__).parent / "prose.txt").read_text(encoding="utf-8").split()
    text = " ".join((prose * (1 + LONG_WORDS // len(prose)))[:LONG_WORDS])
    times = []
    with BackgroundSession(target, draft, EngineOptions(), 600) as warm:
        for number in range(QUESTIONS + 1):
            times.append(answer(warm, f"{text}\n\nQuestion {number}: what happens in part {number}?", 4)[0])
    cold, later = times[0], times[1:]
    median = statistics.median(later)
    row(f"a question about {LONG_WORDS} words, cold", f"{cold:.2f} s to the first token")
    row(f"{QUESTIONS} more about them, median", f"{median:.2f} s, {cold / median:.1f} times sooner")


@contextmanager
def server(models: list[str]) -> Iterator[str]:
    """Run `specgen serve` with HTTP and yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "specgen", "serve", *models, "--http", address]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if address in line:
                break
        yield address
        process.terminate()


def requests(models: list[str], count: int) -> None:
    """Send short requests from several callers. Print how many were answered, and the memory at the end."""

    def ask(number: int) -> bool:
        body = json.dumps({"prompt": f"{STORY} {number}", "max_tokens": 8}).encode()
        request = urllib.request.Request(f"http://{address}/v1/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            return bool(json.load(response)["choices"][0]["text"])

    def memory() -> float:
        done = subprocess.run([sys.executable, "-m", "specgen", "ps", "--json"], capture_output=True, check=True)
        return float(json.loads(done.stdout)[0]["memory"]) / 1e6

    subprocess.run([sys.executable, "-m", "specgen", "stop"], capture_output=True, check=False)
    with server(models) as address, ThreadPoolExecutor(CALLERS) as pool:
        began = time.perf_counter()
        answered = sum(pool.map(ask, range(count // 10)))
        before = memory()
        answered += sum(pool.map(ask, range(count // 10, count)))
        taken = time.perf_counter() - began
        row(f"{count} requests of 8 tokens, {CALLERS} callers", f"{answered} answered in {taken:.0f} s")
        row("memory after a tenth, at the end", f"{before:.0f} MB, {memory():.0f} MB")


def main() -> None:
    """Read the command line, and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("draft", nargs="?", default="auto")
    parser.add_argument("--long", action="store_true", help="ten questions about a long text")
    parser.add_argument("--http", type=int, metavar="N", help="N requests over HTTP")
    arguments = parser.parse_args()
    models = ["-m", arguments.target, "-d", arguments.draft]
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"XDG_RUNTIME_DIR": folder, "SPECGEN_KEEP_ALIVE": "10m", "SPECGEN_NO_LOG": "1"}
        try:
            start_up(models)
            several_pairs(arguments.target)
            throughput(arguments.target, arguments.draft)
            if arguments.long:
                questions(arguments.target, arguments.draft)
            if arguments.http:
                requests(models, arguments.http)
        finally:
            subprocess.run([sys.executable, "-m", "specgen", "stop"], capture_output=True, check=False)


if __name__ == "__main__":
    main()
