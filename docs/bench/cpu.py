"""Compare specgen with llama.cpp on a CPU: the same .gguf files, the same prompts, in turn.

    python docs/bench/cpu.py TARGET.gguf DRAFT.gguf --llama FOLDER [--only plain,reading,...] [--suite FILE]

FOLDER has llama.cpp's binaries. The parts:

    plain      tokens a second without a draft
    reading    tokens a second of a prompt of 512 tokens
    code       greedy answers with a draft, over llama.cpp's best mode for each prompt: plain, or 2, 4, 8 drafted tokens
    prose      likewise
    width      seconds of a target pass over 8 tokens, over those of a pass over 1
    draft      seconds of a draft's pass over those of a target's
    start      seconds from the start of a process to its first text, second start
    neighbour  tokens a second beside a program that keeps one core busy, over those alone
    memory     resident bytes of a pair over the size of its files

Prompts come from a file of JSON lines with `category` and `turns`. Each figure is a median of `--repeat` runs.
"""

import argparse
import json
import multiprocessing
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from specgen.core.events import Failed, Finished, Step
from specgen.core.machine import processor_name
from specgen.core.tokens import Tokens
from specgen.core.types import EngineOptions, SamplingChoice
from specgen.nn.device import compute_threads
from specgen.session.session import Session

CATEGORIES = {"code": ("coding",), "prose": ("writing", "humanities", "roleplay")}
GREEDY = SamplingChoice(temperature=0.0)
LENGTHS = (2, 4, 8)
TEMPLATE = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `peer` is llama.cpp's in the same unit, None where there is none."""

    what: str
    ours: float
    peer: float | None
    ratio: float


class Bench:
    """Measures one pair of files."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.target, self.draft, self.repeat, self.tokens = args.target, args.draft, args.repeat, args.tokens
        self._llama = args.llama
        self._suite = [json.loads(line) for line in args.suite.open(encoding="utf-8")] if args.suite else []
        self._count = args.prompts
        self._threads = str(compute_threads())

    def plain(self) -> Iterator[Row]:
        session = self._session("none")
        prompt = TEMPLATE.format("Tell me about the sea.")
        ours, peer = self._in_turn(
            lambda: decoding_rate(session, prompt, 64), lambda: self._llama_bench("-n", "64", "-p", "0")
        )
        yield Row("plain, tok/s", ours, peer, ours / peer)

    def reading(self) -> Iterator[Row]:
        session = self._session("none")
        ids = Tokens(list(range(1000, 1512)))

        def read() -> float:
            session.pair.target.forward(Tokens([5]), 1)
            start = time.perf_counter()
            session.pair.target.forward(ids, 1)
            return len(ids) / (time.perf_counter() - start)

        ours, peer = self._in_turn(read, lambda: self._llama_bench("-n", "0", "-p", "512"))
        yield Row("reading 512 tokens, tok/s", ours, peer, ours / peer)

    def code(self) -> Iterator[Row]:
        yield from self._drafting("code")

    def prose(self) -> Iterator[Row]:
        yield from self._drafting("prose")

    def _drafting(self, kind: str) -> Iterator[Row]:
        prompts = [each["turns"][0] for each in self._suite if each["category"] in CATEGORIES[kind]][: self._count]
        session = self._session(self.draft)
        pairs = []
        for number, prompt in enumerate(map(TEMPLATE.format, prompts)):
            ours, peer = self._in_turn(
                lambda prompt=prompt: decoding_rate(session, prompt, self.tokens),
                lambda prompt=prompt: max(self._llama_speed(prompt, length) for length in (0, *LENGTHS)),
            )
            pairs.append((ours, peer))
            yield Row(f"{kind} {number + 1}, tok/s", ours, peer, ours / peer)
        ours, peer = (statistics.median(side) for side in zip(*pairs, strict=True))
        yield Row(f"{kind}, median of prompts", ours, peer, statistics.median(one / other for one, other in pairs))

    def width(self) -> Iterator[Row]:
        target = self._session("none").pair.target
        one, eight = pass_seconds(target, 1), pass_seconds(target, 8)
        yield Row("width 8 over width 1, ms", 1e3 * eight, None, eight / one)

    def draft_pass(self) -> Iterator[Row]:
        session = self._session(self.draft)
        target, draft = pass_seconds(session.pair.target, 1), pass_seconds(session.pair.draft, 1)
        yield Row("draft pass over target pass, ms", 1e3 * draft, None, draft / target)

    def start(self) -> Iterator[Row]:
        command = [sys.executable, "-m", "specgen", "run", "-m", self.target, "-d", self.draft, "-n", "1"]
        command += ["--temp", "0", "--offline", "--keep-alive", "off", "--no-log", "--", "Hello"]
        seconds_to_first_byte(command)
        peer = [str(self._llama / "llama-completion"), "-m", self.target, "-p", "Hello", "-n", "1", "-t", self._threads]
        peer += ["-no-cnv", "--no-display-prompt"]
        ours, theirs = self._in_turn(lambda: seconds_to_first_byte(command), lambda: seconds_to_first_byte(peer))
        yield Row("start to first token, second start, s", ours, theirs, ours / theirs)

    def neighbour(self) -> Iterator[Row]:
        session = self._session("none")
        prompt = TEMPLATE.format("Tell me about the sea.")
        alone = decoding_rate(session, prompt, 48)
        peer_alone = self._llama_bench("-n", "16", "-p", "0")
        with busy_core():
            beside = decoding_rate(session, prompt, 48)
            peer_beside = self._llama_bench("-n", "16", "-p", "0")
        yield Row("beside a busy core, tok/s", beside, peer_beside, beside / alone)
        yield Row("llama.cpp beside a busy core, tok/s", peer_beside, peer_alone, peer_beside / peer_alone)

    def memory(self) -> Iterator[Row]:
        code = "import sys; sys.path[:0] = [sys.argv[1]]; import cpu; cpu.print_memory(*sys.argv[2:])"
        folder = str(Path(__file__).parent)
        run = [sys.executable, "-c", code, folder, self.target, self.draft]
        used = int(subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()[-1])
        files = sum(Path(path).stat().st_size for path in (self.target, self.draft))
        yield Row("resident memory, GB", used / 1e9, files / 1e9, used / files)

    def _session(self, draft: str) -> Session:
        session = Session(self.target, draft, EngineOptions(offline=True))
        for event in session.open():
            if isinstance(event, Failed):
                raise event.error
        return session

    def _in_turn(self, ours: Callable[[], float], peer: Callable[[], float]) -> tuple[float, float]:
        """The medians of both, measured in turn."""
        pairs = [(ours(), peer()) for _ in range(self.repeat)]
        one, other = (statistics.median(side) for side in zip(*pairs, strict=True))
        return one, other

    def _llama_bench(self, *options: str) -> float:
        """Tokens a second of llama-bench."""
        command = [
            self._llama / "llama-bench",
            "-m",
            self.target,
            "-t",
            self._threads,
            "-r",
            "1",
            "-o",
            "json",
            *options,
        ]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        return float(json.loads(result.stdout)[0]["avg_ts"])

    def _llama_speed(self, prompt: str, drafted: int) -> float:
        """Tokens a second of one answer, with `drafted` tokens a round or, at 0, without a draft."""
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(prompt)
            file.flush()
            common = ["-m", self.target, "-f", file.name, "-n", str(self.tokens), "-t", self._threads, "--temp", "0"]
            if not drafted:
                command = [self._llama / "llama-completion", *common, "-no-cnv", "--no-display-prompt"]
                pattern = r" eval time =.*?([\d.]+) tokens per second"
            else:
                options = ["-md", self.draft, "--spec-type", "draft-simple", "--spec-draft-n-max", str(drafted)]
                command = [self._llama / "llama-speculative-simple", *common, *options]
                pattern = r"decoded .*?speed:\s*([\d.]+) t/s"
            result = subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        return float(re.findall(pattern, result.stderr + result.stdout)[-1])


def decoding_rate(session: Session, prompt: str, tokens: int) -> float:
    """Tokens a second of a greedy answer, without its first token."""
    count, begin, end = 0, 0.0, 0.0
    for event in session.generate(prompt, raw=True, sampling=GREEDY, max_new_tokens=tokens):
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Step) and event.tokens:
            end = time.perf_counter()
            begin = begin or end
            count += len(event.tokens)
        if isinstance(event, Finished):
            break
    return (count - 1) / (end - begin)


def pass_seconds(model: object, width: int) -> float:
    """The median time of a pass over `width` tokens behind 512 others."""
    ids = list(range(1000, 1512))
    times = []
    for run in range(9):
        context = Tokens([*ids, *range(2000 + run, 2000 + run + width)])
        start = time.perf_counter()
        model.forward(context, width)  # type: ignore[attr-defined]
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def seconds_to_first_byte(command: list[str]) -> float:
    """Seconds from the start of a process to its first byte on stdout."""
    start = time.perf_counter()
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, bufsize=0, **pipes) as process:
        assert process.stdout
        process.stdout.read(1)
        seconds = time.perf_counter() - start
        process.communicate()
    return seconds


def print_memory(target: str, draft: str) -> None:
    """Print the resident bytes of this process with a loaded pair after an answer."""
    session = Session(target, draft, EngineOptions(offline=True))
    for _ in session.generate("Hello", sampling=GREEDY, max_new_tokens=32):
        pass
    print(psutil.Process().memory_info().rss)


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy."""
    process = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True)
    process.start()
    time.sleep(0.5)
    try:
        yield
    finally:
        process.kill()
        process.join()


def _spin() -> None:
    while True:
        pass


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "plain": Bench.plain,
    "reading": Bench.reading,
    "code": Bench.code,
    "prose": Bench.prose,
    "width": Bench.width,
    "draft": Bench.draft_pass,
    "start": Bench.start,
    "neighbour": Bench.neighbour,
    "memory": Bench.memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("draft")
    parser.add_argument("--llama", type=Path, required=True)
    parser.add_argument("--suite", type=Path)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    bench, rows = Bench(args), []
    print(f"{processor_name()}, {compute_threads()} threads")
    print(f"{'':<42}{'specgen':>10}{'llama.cpp':>11}{'ratio':>8}")
    for part in args.only.split(","):
        for row in PARTS[part](bench):
            rows.append(row)
            peer = "-" if row.peer is None else f"{row.peer:.2f}"
            print(f"{row.what:<42}{row.ours:>10.2f}{peer:>11}{row.ratio:>8.2f}", flush=True)
    if args.json:
        found = [{"what": row.what, "specgen": row.ours, "peer": row.peer, "ratio": row.ratio} for row in rows]
        args.json.write_text(json.dumps({"processor": processor_name(), "rows": found}, indent=1))


if __name__ == "__main__":
    main()
