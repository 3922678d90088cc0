"""From a search to what is kept of it, in words or as JSON, with Ctrl-C."""

import dataclasses
import sys

from specgen.bench.blocks import Block, number
from specgen.bench.table import text
from specgen.bench.tuning import FEWEST, Result, TuneSettings, Tuning, tune
from specgen.cli.ui import print_json
from specgen.core.errors import INTERRUPTED
from specgen.core.progress import follow
from specgen.render.progress import ProgressLine
from specgen.render.terminal import put, put_exact, sanitize
from specgen.tuned import save


def play_tune(settings: TuneSettings, *, json: bool) -> int:
    """Search, keep, show. Returns the exit code. Ctrl-C keeps nothing. Raises SpecgenError."""
    progress = ProgressLine(sys.stderr)
    try:
        tuning = follow(tune(settings), progress.show)
        path = save(tuning.tuned) if tuning.tuned else None
    except KeyboardInterrupt:
        progress.close()
        put(sys.stderr, "specgen: interrupted: nothing of this was kept\n")
        return INTERRUPTED
    finally:
        progress.close()
    if json:
        print_json(dataclasses.asdict(tuning) | {"file": path})
    else:
        put_exact(sys.stdout, sanitize("\n".join([*_races(tuning), *_outcome(settings, tuning)]) + "\n"))
    return 0


def _races(tuning: Tuning) -> list[str]:
    if not tuning.races:
        return []
    head = ["tried", "x defaults", "95 %", "worst", "x first", "prompts", "same text"]
    rows = [_row(result) for results in tuning.races.values() for result in results]
    return [text(Block([head, *rows])), ""]


def _row(result: Result) -> list[str]:
    interval = f"{result.interval[0]:.2f}-{result.interval[1]:.2f}" if result.interval else "-"
    row = [result.options, number(result.speed_up, 2), interval, number(result.worst_decile, 2)]
    return [*row, number(result.promptness, 2), str(result.prompts), "yes" if result.same_text else "no"]


def _outcome(settings: TuneSettings, tuning: Tuning) -> list[str]:
    """What is kept, and why."""
    lines = []
    if tuning.last:
        lines.append("measured anew beside the defaults:")
        lines += [
            text(Block([["", "x defaults", "95 %", "worst", "x first", "prompts", "same text"], _row(tuning.last)]))
        ]
    quant = tuning.other_quant
    if quant and quant.speed_up and not settings.allow_quant:
        lines.append(
            f"{quant.options} is {quant.speed_up:.2f} times as fast as the defaults. It changes the numbers that the "
            "target computes, so it is only taken with --allow-quant."
        )
    if tuning.tuned is None:
        found = tuning.last.prompts if tuning.last else 0
        lines.append(f"{found} prompts in {settings.minutes:g} minutes are too few to judge by, {FEWEST} are needed:")
        lines.append(f"nothing was kept. Give it more time: --minutes {3 * settings.minutes:g}")
        return lines
    if tuning.tuned.speed_up is None:
        lines.append("Nothing is better than the defaults beyond noise: they stay.")
        return lines
    lines.append(f"kept: {tuning.tuned.in_words()}")
    lines.append("run, chat, map and serve take it from now on, for this pair on this machine.")
    return lines
