"""A report as tables and sentences, for whatever shows them: ratios first, absolute figures second."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, Any]
Rows = list[list[str]]
_NOTHING = "-"
# What a lookup drafts beyond is too seldom to say a share of.
_POSITIONS = 8


@dataclass(frozen=True, slots=True)
class Block:
    """A table, whose first row is its head and whose first column names its rows, or none; and lines below it."""

    rows: Rows
    lines: tuple[str, ...] = ()


def blocks(report: Figures) -> list[Block]:
    """All of `report`."""
    overall = report["overall"]
    made = [_head(report), *_comparisons(report), Block([], (_verdict(report),))]
    if interrupted := report.get("interrupted"):
        made.insert(1, Block([], (f"PARTIAL: interrupted after {interrupted['turns']} of {interrupted['of']} turns",)))
    made += [_distributions(report)] if report["distributions"] else []
    made += [_positions(overall)] if any(each["acceptance_by_position"] for each in overall.values()) else []
    made += [_hindsight(name, table) for name, table in report.get("hindsight", {}).items()]
    made += [_shares(overall)]
    made += [_per_million(report)] if _priced(report) else []
    if prefill := report.get("prefill"):
        made.append(Block([], (_prefill(prefill),)))
    if roofline := report.get("roofline"):
        made.append(_roofline(roofline))
    if coupling := report.get("coupling"):
        made.append(_coupling(coupling))
    if fidelity := report.get("fidelity"):
        made.append(_fidelity(fidelity))
    if starts := report.get("cold_start_s"):
        line = f"cold start to the first text: first run {starts[0]:.2f} s, second run {starts[1]:.2f} s"
        made.append(Block([], (line,)))
    if report["peak_memory_bytes"]:
        line = f"peak resident memory, without any peer: {size(report['peak_memory_bytes'])}"
        made.append(Block([], (line,)))
    return made


def _head(report: Figures) -> Block:
    machine, settings = report["machine"], report["settings"]
    sampling = settings["sampling"]
    drawn = f"temperature {sampling['temperature']:g}, seed {sampling['seed']}" if sampling["temperature"] else "greedy"
    cores = f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads"
    memory = f", {size(machine['memory_bytes'])} of memory" if machine["memory_bytes"] else ""
    accelerator = f", {machine['accelerator']}" if machine["accelerator"] else ""
    formats = report["number_formats"] or {"": {role: report[role] for role in ("target", "draft")}}
    models = [
        f"{role} {_model(model) if model else 'none'}{f' ({label})' if label else ''}"
        for label, both in formats.items()
        for role, model in both.items()
    ]
    lines = [
        f"specgen {machine['specgen']}, torch {machine['torch']}, {machine['system']}",
        f"{cores}{memory}{accelerator}",
        *models,
        f"suite {settings['suite']}, {settings['max_new_tokens']} new tokens, {drawn},"
        f" k {_k(settings['engine']['num_draft_tokens'])}, {_count(settings['repeat'], 'repetition')}",
    ]
    return Block([], tuple(lines))


def _comparisons(report: Figures) -> list[Block]:
    """Overall, and by category where there are several."""
    kinds = report["categories"]
    tables = {"overall": report["overall"], **kinds} if len(kinds) > 1 else dict(kinds)
    return [_comparison(name, table) for name, table in tables.items()]


def _comparison(title: str, table: Mapping[str, Figures]) -> Block:
    programs = list(dict.fromkeys(program for figures in table.values() for program in figures["over_peer"]))
    several = sum(name.split(" ")[0] == "plain" for name in table) > 1
    rows = [[title, "x plain", "95 %", "worst", *(["x first"] * several), *(f"x {name}" for name in programs)]]
    rows[0] += ["tok/s", "first token", "whole", "accepted", "length", "same text"]
    for name, figures in table.items():
        row = [name, number(figures["speed_up"], 2), _interval(figures["intervals"]["speed_up"])]
        row += [number(figures["worst_decile"], 2), *([number(figures["over_first"], 2)] if several else [])]
        row += [number(figures["over_peer"].get(program), 2) for program in programs]
        row += [number(figures["tokens_per_second"], 1), seconds(figures["time_to_first_token_s"])]
        row += [seconds(figures["elapsed_s"]), share(figures["acceptance_rate"], 0)]
        rows.append([*row, number(figures["mean_acceptance_length"], 2), f"{figures['same_text']}/{figures['texts']}"])
    return Block(rows)


def _verdict(report: Figures) -> str:
    if report["identical"]:
        return "identical output: every drafter wrote the text of plain decoding"
    wrong = [
        f"{name} {figures['texts'] - figures['same_text']} of {figures['texts']}"
        for name, figures in report["overall"].items()
        if figures["ours"] and figures["same_text"] < figures["texts"]
    ]
    return f"NOT identical to the first text of plain decoding: {', '.join(wrong)}"


def _distributions(report: Figures) -> Block:
    """What the draft was made for beside what it seldom met, and the prompts that gain least."""
    kinds = report["distributions"]
    rows = [["x plain by distribution", *(part for kind in kinds for part in (kind, "accepted", "worst"))]]
    lines = []
    for name, figures in report["overall"].items():
        row = [name]
        for table in kinds.values():
            row += [number(table[name]["speed_up"], 2), share(table[name]["acceptance_rate"], 0)]
            row.append(number(table[name]["worst_decile"], 2))
        rows.append(row)
        if figures["acceptance_rate"] is not None:
            lines.append(f"{name} gains least on prompts {', '.join(figures['worst_prompts'])}")
    return Block(rows, tuple(lines))


def _positions(table: Mapping[str, Figures]) -> Block:
    most = min(_POSITIONS, max(len(figures["acceptance_by_position"]) for figures in table.values()))
    rows = [["accepted by position", *map(str, range(1, most + 1))]]
    for name, figures in table.items():
        if found := figures["acceptance_by_position"][:most]:
            rows.append([name, *(share(each, 0) for each in found), *[_NOTHING] * (most - len(found))])
    return Block(rows)


def _hindsight(drafter: str, table: Mapping[str, Figures]) -> Block:
    lengths = list(dict.fromkeys(k for figures in table.values() for k in figures["tokens_per_second"]))
    rows = [[f"{drafter}, tok/s by k", *lengths, "best k", "auto reaches"]]
    for category, figures in table.items():
        row = [category, *(number(figures["tokens_per_second"].get(k), 1) for k in lengths)]
        rows.append([*row, str(figures["best_k"] or _NOTHING), share(figures["share"], 0)])
    return Block(rows)


def _shares(table: Mapping[str, Figures]) -> Block:
    names = {"draft": "drafting", "verify": "verifying", "other": "other", "outside_forwards": "outside forwards"}
    rows = [["share of decoding time", *names.values(), "peak memory"]]
    for name, figures in table.items():
        if figures["draft_share"] is not None:
            peak = figures["peak_memory_bytes"]
            row = [share(figures[f"{part}_share"], 1) for part in names]
            rows.append([name, *row, size(peak) if peak else _NOTHING])
    return Block(rows)


def _priced(report: Figures) -> bool:
    return bool(report["energy"]) or any(price is not None for price in report["settings"]["prices"].values())


def _per_million(report: Figures) -> Block:
    prices, energy = report["settings"]["prices"], report["energy"]
    rows = [["a million tokens", "hours", "kWh", "money"]]
    for name, figures in report["overall"].items():
        each = figures["per_million"]
        rows.append([name, number(each["hours"], 2), number(each["kwh"], 3), number(each["money"], 3)])
    named = {"an hour": prices["per_hour"], "a kWh": prices["per_kwh"]}
    said = [f"{price:g} {unit}" for unit, price in named.items() if price is not None]
    metered = f"energy by {', '.join(dict.fromkeys(energy))}" if energy else "energy is not readable here"
    return Block(rows, (f"{', '.join(said)}; {metered}" if said else metered,))


def _prefill(prefill: Figures) -> str:
    times = ", ".join(f"{name} {seconds(taken)}" for name, taken in prefill["seconds"].items())
    ratio = f"{prefill['over_peer']:.2f} times as fast as the peer; " if prefill["over_peer"] else ""
    return f"reading {prefill['tokens']} tokens: {ratio}{times}"


def _roofline(roofline: Figures) -> Block:
    models = roofline["models"]
    widths = list(next(iter(models.values()))["widths"])
    rows = [["forward passes", *(f"width {width}" for width in widths)]]
    for name, model in models.items():
        for label, key in (("over the bytes bound", "over_bound"), ("over width 1", "over_width_1")):
            rows.append([f"{name}, {label}", *(number(model["widths"][width][key], 2) for width in widths)])
        rows.append([f"{name}, time", *(seconds(model["widths"][width]["seconds"]) for width in widths)])
    sizes = ", ".join(f"{name} {size(model['weight_bytes'])}" for name, model in models.items())
    read = size(roofline["bandwidth_bytes_per_s"])
    return Block(rows, (f"read bandwidth {read}/s; weights that a pass reads: {sizes}",))


def _coupling(coupling: Figures) -> Block:
    rows = [["temperature 1", "tokens", "same draw", "sum of min(p, q)", "over it"]]
    for kind, figures in coupling.items():
        row = [kind, str(figures["tokens"]), number(figures["accepted"], 3), number(figures["bound"], 3)]
        rows.append([*row, number(figures["over_bound"], 3)])
    return Block(rows)


def _fidelity(fidelity: Figures) -> Block:
    rows = [["against float32", "tokens", "mean KL", "worst", "perplexity", "change"]]
    for name, figures in fidelity.items():
        exact, now = figures["perplexity_float32"], figures["perplexity"]
        row = [name, str(figures["tokens"]), number(figures["divergence"], 5), number(figures["worst"], 3)]
        rows.append([*row, number(now, 3), f"{100 * (now / exact - 1):+.2f} %"])
    return Block(rows)


def number(value: float | None, digits: int) -> str:
    return _NOTHING if value is None else f"{value:.{digits}f}"


def share(value: float | None, digits: int) -> str:
    return _NOTHING if value is None else f"{100 * value:.{digits}f} %"


def seconds(value: float | None) -> str:
    if value is None:
        return _NOTHING
    return f"{1000 * value:.1f} ms" if value < 1 else f"{value:.2f} s"


def size(count: float | None) -> str:
    if count is None:
        return "unknown"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _interval(interval: Sequence[float] | None) -> str:
    return f"{interval[0]:.2f}-{interval[1]:.2f}" if interval else _NOTHING


def _k(value: int | None) -> str:
    return "as it pays" if value is None else str(value)


def _count(amount: int, noun: str) -> str:
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"


def _model(model: Figures) -> str:
    revision = f"@{model['revision'][:7]}" if model["revision"] else ""
    return f"{model['id']}{revision}, {model['device']}, {model['dtype']}, quant {model['quant']}"
