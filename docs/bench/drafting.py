"""Measure what drafting gains, and what it costs where it gains nothing: the tables of docs/performance.md.

    python docs/bench/drafting.py TARGET DRAFT --suite FILE
    python docs/bench/drafting.py TARGET DRAFT --prompts 1 -n 64                 # short
    python docs/bench/drafting.py TARGET DRAFT --parts greedy --fixed none        # one part, without hindsight

TARGET and DRAFT are folders. A speed-up is the wall time of an answer by plain decoding over that of the same answer
with a draft, prompt included. Both run in turn. Tables show medians over prompts.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coupling import measure_coupling
from hindsight import hindsight
from texts import FILES, load
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from specgen.core.types import EngineOptions

SAMPLED = ["--temp", "0.7", "--top-p", "0.8"]
REWRITE = Path(__file__).parent / "rewrite.jsonl"
CHECKED, CHECKED_TOKENS = 20, 32  # number of prompts whose texts are compared, and their length in tokens

PARTS = ["greedy", "sampled", "coupling", "rewriting", "useless", "swapped", "check"]
SPECGEN = [sys.executable, "-m", "specgen"]

Report = dict[str, Any]


def bench(models: list[str], drafter: str, *options: str) -> Report:
    """Run specgen bench with plain decoding and one drafter, and return its report."""
    line = [*SPECGEN, "bench", *models, "--json", "--drafters", f"none,{drafter}", *options]
    found: Report = json.loads(subprocess.run(line, stdout=subprocess.PIPE, check=True).stdout)
    return found


def speed_ups(report: Report) -> dict[str, list[float]]:
    """Return category -> speed-up of each prompt, with the adaptive draft length."""
    drafted = next(name for name in report["overall"] if name.removesuffix(" k=auto") in ("model", "hybrid"))
    times = {(run["contender"], run["prompt"]): run["elapsed_s"] for run in report["runs"]}
    found: dict[str, list[float]] = {}
    for run in report["runs"]:
        if run["contender"] == drafted:
            ratio = times["plain", run["prompt"]] / run["elapsed_s"]
            found.setdefault(run["category"], []).append(ratio)
    return found


def text_of(report: Report) -> str:
    """Say whether every answer equals that of plain decoding."""
    return "same text" if report["identical"] else "ANOTHER TEXT"


def greedy(models: list[str], options: list[str], fixed: str) -> None:
    """Print the speed-ups by category and the share of the best fixed draft length's speed."""
    sweep = [] if fixed == "none" else ["--sweep", f"k={fixed}"]
    report = bench(models, "hybrid", *options, *sweep)
    best = hindsight(report).get("hybrid", {})
    shares = {category: share(figures) for category, figures in best.items()}
    table("greedy", speed_ups(report), {"of the best fixed k": shares} if shares else {})
    print(text_of(report), flush=True)


def sampled(models: list[str], options: list[str]) -> None:
    """Print the speed-ups by category with sampling."""
    report = bench(models, "hybrid", *options, *SAMPLED)
    table("temp 0.7, top-p 0.8", speed_ups(report), {})
    print(text_of(report), flush=True)


def coupling(target: str, draft: str) -> None:
    """Print how often both models draw the same token, relative to the bound."""
    pair = load(target, draft, EngineOptions())
    for kind in FILES:
        found = measure_coupling(pair, kind)
        ratio = found.accepted / found.bound
        print(f"same draw at temperature 1 over the sum of min(p, q), {kind}: {ratio:.3f}", flush=True)


def table(name: str, found: dict[str, list[float]], others: dict[str, dict[str, str]]) -> None:
    """Print the median and the least speed-up of each category, and other columns."""
    print(f"| category | {' | '.join([name, 'least', *others])} |\n| --- {'| --- ' * (2 + len(others))}|")
    found = found | {"overall": [ratio for each in found.values() for ratio in each]}
    for category, ratios in found.items():
        cells = [
            f"{statistics.median(ratios):.2f}",
            f"{min(ratios):.2f}",
            *(each[category] for each in others.values()),
        ]
        print(f"| {category} | {' | '.join(cells)} |", flush=True)


def share(figures: Report) -> str:
    """Format the share of the best k's speed, and that k."""
    return "-" if figures["share"] is None else f"{figures['share']:.2f} (k={figures['best_k']})"


def one(name: str, models: list[str], drafter: str, *options: str) -> None:
    """Print the median and the least speed-up over some prompts."""
    report = bench(models, drafter, *options)
    ratios = [ratio for each in speed_ups(report).values() for ratio in each]
    gain = f"{statistics.median(ratios):.3f} of plain decoding, least {min(ratios):.3f}"
    print(f"{name}: {gain}; {text_of(report)}", flush=True)


def make_useless(draft: str, folder: str) -> None:
    """Save a model of the draft's shape with random weights, and its tokenizer."""
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(draft))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(draft).save_pretrained(folder)


def warning(models: list[str]) -> str:
    """Return the warning that a pair prints while it generates 100 tokens."""
    line = [*SPECGEN, "run", *models, "--keep-alive", "off", "-n", "100", "--temp", "0", "Tell me a long story."]
    said = subprocess.run(line, capture_output=True, text=True, check=True).stderr
    return next((each for each in said.splitlines() if "swapped" in each), "no warning")


def useless(models: list[str], draft: str, options: list[str]) -> None:
    """Print the cost of a draft with random weights."""
    with tempfile.TemporaryDirectory() as folder:
        make_useless(draft, folder)
        one("a draft of random weights", [*models[:2], "-d", folder], "model", *options)


def swapped(models: list[str], options: list[str]) -> None:
    """Print the cost of a draft slower than the target, and the warning."""
    one("target and draft swapped", models, "model", *options)
    print(f"  {warning(models)}", flush=True)


def check(models: list[str], suite: list[str]) -> None:
    """Print whether many texts are the same with and without a draft."""
    print("with a draft and without, greedy and at temperature 0.8 with seed 1:", flush=True)
    compared = ["--prompts", str(CHECKED), "-n", str(CHECKED_TOKENS), "--temp", "0.8", "--seeds", "1"]
    subprocess.run([*SPECGEN, "check", *models, *suite, *compared], check=False)


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("draft")
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--prompts", type=int, default=3, help="of each category (default: 3)")
    parser.add_argument("-n", "--max-tokens", type=int, default=128, help="of each answer (default: 128)")
    parser.add_argument(
        "--fixed", default="2,4,8", help="fixed draft lengths to compare with auto, or none (default: 2,4,8)"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help="|".join(PARTS))
    arguments = parser.parse_args()
    suite = ["--suite", arguments.suite]
    models = ["-m", arguments.target, "-d", arguments.draft]
    options = [*suite, "-n", str(arguments.max_tokens)]
    many = [*options, "--prompts", str(arguments.prompts)]
    few = [*options, "--prompts", "1"]
    parts: dict[str, Callable[[], None]] = {
        "greedy": lambda: greedy(models, many, arguments.fixed),
        "sampled": lambda: sampled(models, many),
        "coupling": lambda: coupling(arguments.target, arguments.draft),
        "rewriting": lambda: one("rewriting a file", models, "hybrid", "--suite", str(REWRITE), "-n", "400"),
        "useless": lambda: useless(models, arguments.draft, few),
        "swapped": lambda: swapped(["-m", arguments.draft, "-d", arguments.target], few),
        "check": lambda: check(models, suite),
    }
    for part in arguments.parts:
        parts[part]()


if __name__ == "__main__":
    main()
