"""The tables of a report, as text and as Markdown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from specgen.core.words import plural
from specgen.render.terminal import align

Figures = Mapping[str, Any]
Rows = list[list[str]]
_NOTHING = "-"
_POSITIONS = 8  # drafted positions shown; later ones are too rare for a share


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table and lines below it. The first row holds the column names, the first column the row names."""

    rows: Rows
    lines: tuple[str, ...] = ()


def as_text(report: Figures) -> str:
    """Render `report` for a terminal. Every line ends in a newline."""
    return "\n".join(f"{_text(table)}\n" for table in report_tables(report))


def as_markdown(report: Figures, header: Figures) -> str:
    """Render `report` as Markdown. `header`, which allows a rerun, follows as JSON."""
    parts = ["# specgen bench", *map(_markdown, report_tables(report))]
    return "\n\n".join([*parts, f"```json\n{json.dumps(header)}\n```"]) + "\n"


def report_tables(report: Figures) -> list[ReportTable]:
    """All tables of `report`: ratios first, absolute figures after them."""
    overall = report["overall"]
    tables = [_head(report), *_comparisons(report), ReportTable([], _verdict(report))]
    if interrupted := report.get("interrupted"):
        line = f"PARTIAL: interrupted after {interrupted['turns']} of {interrupted['of']} turns"
        tables.insert(1, ReportTable([], (line,)))
    tables += [_distributions(report)] if report["distributions"] else []
    tables += [_positions(overall)] if any(each["acceptance_by_position"] for each in overall.values()) else []
    tables += [_shares(overall)]
    tables += [_per_million(report)] if _priced(report) else []
    if prefill := report.get("prefill"):
        tables.append(ReportTable([], (_prefill(prefill),)))
    if roofline := report.get("roofline"):
        tables.append(_roofline(roofline))
    if report["peak_memory_bytes"]:
        line = f"peak resident memory, without any peer: {_size(report['peak_memory_bytes'])}"
        tables.append(ReportTable([], (line,)))
    return tables


def _text(table: ReportTable) -> str:
    figures = range(1, len(table.rows[0])) if table.rows else ()
    return "\n".join([*align(table.rows, right=figures), *table.lines])


def _head(report: Figures) -> ReportTable:
    machine, settings = report["machine"], report["settings"]
    sampling = settings["sampling"]
    drawn = f"temperature {sampling['temperature']:g}, seed {sampling['seed']}" if sampling["temperature"] else "greedy"
    cores = f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads"
    memory = f", {_size(machine['memory_bytes'])} of memory" if machine["memory_bytes"] else ""
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
        f" k {_k(settings['engine']['num_draft_tokens'])}, {plural(settings['repeat'], 'repetition')}",
    ]
    return ReportTable([], tuple(lines))


def _comparisons(report: Figures) -> list[ReportTable]:
    """Return one table overall and one per category; a single category is shown once."""
    kinds = report["categories"]
    tables = {"overall": report["overall"], **kinds} if len(kinds) > 1 else dict(kinds)
    return [_comparison(name, table) for name, table in tables.items()]


def _comparison(title: str, table: Mapping[str, Figures]) -> ReportTable:
    programs = list(dict.fromkeys(program for figures in table.values() for program in figures["over_peer"]))
    several = sum(name.split(" ")[0] == "plain" for name in table) > 1
    rows = [[title, "x plain", "95 %", "worst", *(["x first"] * several), *(f"x {name}" for name in programs)]]
    rows[0] += ["tok/s", "first token", "whole", "accepted", "length", "same text"]
    for name, figures in table.items():
        row = [name, _number(figures["speed_up"], 2), _interval(figures["intervals"]["speed_up"])]
        row += [_number(figures["worst_decile"], 2), *([_number(figures["over_first"], 2)] if several else [])]
        row += [_number(figures["over_peer"].get(program), 2) for program in programs]
        row += [_number(figures["tokens_per_second"], 1), _seconds(figures["time_to_first_token_s"])]
        row += [_seconds(figures["elapsed_s"]), _share(figures["acceptance_rate"], 0)]
        rows.append([*row, _number(figures["mean_acceptance_length"], 2), f"{figures['same_text']}/{figures['texts']}"])
    return ReportTable(rows)


def _verdict(report: Figures) -> tuple[str, ...]:
    overall = report["overall"]
    idle = [
        name
        for name, figures in overall.items()
        if figures["own"] and figures["acceptance_rate"] is None and figures["reference"] != name
    ]
    note = (f"drafted nothing, so the equal text proves nothing: {', '.join(idle)}",) if idle else ()
    if report["identical"]:
        drafters = [name for name, figures in overall.items() if figures["own"] and figures["reference"] != name]
        same = "identical output: every drafter wrote the text of plain decoding"
        return (same, *note) if len(idle) < len(drafters) or not drafters else note
    wrong = [
        f"{name} {figures['texts'] - figures['same_text']} of {figures['texts']}"
        for name, figures in overall.items()
        if figures["own"] and figures["same_text"] < figures["texts"]
    ]
    return (f"NOT identical to the first text of plain decoding: {', '.join(wrong)}", *note)


def _distributions(report: Figures) -> ReportTable:
    """Compare the prompts in and out of the draft's distribution, and name the prompts that gain least."""
    kinds = report["distributions"]
    rows = [["x plain by distribution", *(part for kind in kinds for part in (kind, "accepted", "worst"))]]
    lines = []
    for name, figures in report["overall"].items():
        row = [name]
        for table in kinds.values():
            row += [_number(table[name]["speed_up"], 2), _share(table[name]["acceptance_rate"], 0)]
            row.append(_number(table[name]["worst_decile"], 2))
        rows.append(row)
        if figures["acceptance_rate"] is not None:
            lines.append(f"{name} gains least on prompts {', '.join(figures['worst_prompts'])}")
    return ReportTable(rows, tuple(lines))


def _positions(table: Mapping[str, Figures]) -> ReportTable:
    most = min(_POSITIONS, max(len(figures["acceptance_by_position"]) for figures in table.values()))
    rows = [["accepted by position", *map(str, range(1, most + 1))]]
    for name, figures in table.items():
        if found := figures["acceptance_by_position"][:most]:
            rows.append([name, *(_share(each, 0) for each in found), *[_NOTHING] * (most - len(found))])
    return ReportTable(rows)


def _shares(table: Mapping[str, Figures]) -> ReportTable:
    names = {"draft": "drafting", "verify": "verifying", "other": "other", "outside_forwards": "outside forwards"}
    rows = [["share of decoding time", *names.values(), "peak memory"]]
    for name, figures in table.items():
        if figures["draft_share"] is not None:
            peak = figures["peak_memory_bytes"]
            row = [_share(figures[f"{part}_share"], 1) for part in names]
            rows.append([name, *row, _size(peak) if peak else _NOTHING])
    return ReportTable(rows)


def _priced(report: Figures) -> bool:
    return bool(report["energy"]) or any(price is not None for price in report["settings"]["prices"].values())


def _per_million(report: Figures) -> ReportTable:
    prices, energy = report["settings"]["prices"], report["energy"]
    rows = [["a million tokens", "hours", "kWh", "money"]]
    for name, figures in report["overall"].items():
        each = figures["per_million"]
        rows.append([name, _number(each["hours"], 2), _number(each["kwh"], 3), _number(each["money"], 3)])
    named = {"an hour": prices["per_hour"], "a kWh": prices["per_kwh"]}
    said = [f"{price:g} {unit}" for unit, price in named.items() if price is not None]
    metered = f"energy by {', '.join(dict.fromkeys(energy))}" if energy else "no energy counter is readable"
    return ReportTable(rows, (f"{', '.join(said)}; {metered}" if said else metered,))


def _prefill(prefill: Figures) -> str:
    times = ", ".join(f"{name} {_seconds(taken)}" for name, taken in prefill["seconds"].items())
    ratio = f"{prefill['over_peer']:.2f} times as fast as the peer; " if prefill["over_peer"] else ""
    return f"reading {prefill['tokens']} tokens: {ratio}{times}"


def _roofline(roofline: Figures) -> ReportTable:
    models = roofline["models"]
    widths = list(next(iter(models.values()))["widths"])
    rows = [["forward passes", *(f"width {width}" for width in widths)]]
    for name, model in models.items():
        for label, key in (("over the bytes bound", "over_bound"), ("over width 1", "over_width_1")):
            rows.append([f"{name}, {label}", *(_number(model["widths"][width][key], 2) for width in widths)])
        rows.append([f"{name}, time", *(_seconds(model["widths"][width]["seconds"]) for width in widths)])
    sizes = ", ".join(f"{name} {_size(model['weight_bytes'])}" for name, model in models.items())
    read = _size(roofline["bandwidth_bytes_per_s"])
    return ReportTable(rows, (f"read bandwidth {read}/s; weights that a pass reads: {sizes}",))


def _number(value: float | None, digits: int) -> str:
    return _NOTHING if value is None else f"{value:.{digits}f}"


def _share(value: float | None, digits: int) -> str:
    return _NOTHING if value is None else f"{100 * value:.{digits}f} %"


def _seconds(value: float | None) -> str:
    if value is None:
        return _NOTHING
    return f"{1000 * value:.1f} ms" if value < 1 else f"{value:.2f} s"


def _size(count: float | None) -> str:
    if count is None:
        return "unknown"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _interval(interval: Sequence[float] | None) -> str:
    return f"{interval[0]:.2f}-{interval[1]:.2f}" if interval else _NOTHING


def _k(value: int | None) -> str:
    return "auto" if value is None else str(value)


def _model(model: Figures) -> str:
    revision = f"@{model['revision'][:7]}" if model["revision"] else ""
    return f"{model['id']}{revision}, {model['device']}, {model['dtype']}, quant {model['quant']}"


def _markdown(table: ReportTable) -> str:
    lines = []
    if table.rows:
        head, *rows = table.rows
        lines = [_row(head), _row(["---", *["---:"] * (len(head) - 1)]), *map(_row, rows), ""]
    return "\n".join([*lines, *(f"{_escaped(line)}  " for line in table.lines)]).rstrip()


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    return "".join(f"\\{character}" if character in "\\`*_<>|[]#" else character for character in text)
