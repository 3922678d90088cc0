"""A report as text: ratios first, absolute figures second."""

from collections.abc import Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]
_NOTHING = "-"


def render(report: Figures) -> str:
    """All of `report`, each line with its newline."""
    parts = [_head(report), *_comparisons(report), *_rest(report)]
    return "\n".join(f"{part}\n" for part in parts)


def _head(report: Figures) -> str:
    machine, settings = report["machine"], report["settings"]
    sampling = settings["sampling"]
    drawn = f"temperature {sampling['temperature']:g}, seed {sampling['seed']}" if sampling["temperature"] else "greedy"
    cores = f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads"
    memory = f", {_size(machine['memory_bytes'])} of memory" if machine["memory_bytes"] else ""
    accelerator = f", {machine['accelerator']}" if machine["accelerator"] else ""
    return "\n".join(
        [
            f"specgen {machine['specgen']}, torch {machine['torch']}, {machine['system']}",
            f"{cores}{memory}{accelerator}",
            f"target {_model(report['target'])}",
            f"draft {_model(report['draft']) if report['draft'] else 'none'}",
            f"suite {settings['suite']}, {settings['max_new_tokens']} new tokens, {drawn},"
            f" k {_k(settings['engine']['num_draft_tokens'])}, {_count(settings['repeat'], 'repetition')}",
        ]
    )


def _comparisons(report: Figures) -> list[str]:
    """Overall, and by category where there are several."""
    kinds = report["categories"]
    tables = {"overall": report["overall"], **kinds} if len(kinds) > 1 else dict(kinds)
    return [_comparison(name, table) for name, table in tables.items()]


def _comparison(title: str, table: Mapping[str, Figures]) -> str:
    against = any(figures["over_peer"] is not None for figures in table.values())
    rows = [[title, "x plain", *(["x peer"] if against else []), "tok/s", "first token", "whole"]]
    rows[0] += ["accepted", "length", "same text"]
    for name, figures in table.items():
        row = [name, _number(figures["speed_up"], 2), *([_number(figures["over_peer"], 2)] if against else [])]
        row += [_number(figures["tokens_per_second"], 1), _seconds(figures["time_to_first_token_s"])]
        row += [_seconds(figures["elapsed_s"]), _share(figures["acceptance_rate"], 0)]
        rows.append([*row, _number(figures["mean_acceptance_length"], 2), f"{figures['same_text']}/{figures['texts']}"])
    return _align(rows)


def _shares(table: Mapping[str, Figures]) -> str:
    names = {"draft": "drafting", "verify": "verifying", "other": "other", "outside_forwards": "outside forwards"}
    rows = [["share of decoding time", *names.values()]]
    for name, figures in table.items():
        if figures["draft_share"] is not None:
            rows.append([name, *(_share(figures[f"{part}_share"], 1) for part in names)])
    return _align(rows)


def _rest(report: Figures) -> list[str]:
    parts = [_verdict(report), _shares(report["overall"])]
    if prefill := report.get("prefill"):
        parts.append(_prefill(prefill))
    if roofline := report.get("roofline"):
        parts.append(_roofline(roofline))
    if coupling := report.get("coupling"):
        parts.append(_coupling(coupling))
    if fidelity := report.get("fidelity"):
        parts.append(_fidelity(fidelity))
    if starts := report.get("cold_start_s"):
        parts.append(f"cold start to the first text: first run {starts[0]:.2f} s, second run {starts[1]:.2f} s")
    if report["peak_memory_bytes"]:
        parts.append(f"peak resident memory, without any peer: {_size(report['peak_memory_bytes'])}")
    return parts


def _verdict(report: Figures) -> str:
    if report["identical"]:
        return "identical output: every drafter wrote the text of plain decoding"
    wrong = [
        f"{name} {figures['texts'] - figures['same_text']} of {figures['texts']}"
        for name, figures in report["overall"].items()
        if figures["ours"] and figures["same_text"] < figures["texts"]
    ]
    return f"NOT identical to the first text of plain decoding: {', '.join(wrong)}"


def _prefill(prefill: Figures) -> str:
    times = ", ".join(f"{name} {_seconds(seconds)}" for name, seconds in prefill["seconds"].items())
    ratio = f"{prefill['over_peer']:.2f} times as fast as the peer; " if prefill["over_peer"] else ""
    return f"reading {prefill['tokens']} tokens: {ratio}{times}"


def _roofline(roofline: Figures) -> str:
    models = roofline["models"]
    widths = list(next(iter(models.values()))["widths"])
    rows = [["forward passes", *(f"width {width}" for width in widths)]]
    for name, model in models.items():
        for label, key in (("over the bytes bound", "over_bound"), ("over width 1", "over_width_1")):
            rows.append([f"{name}, {label}", *(_number(model["widths"][width][key], 2) for width in widths)])
        rows.append([f"{name}, time", *(_seconds(model["widths"][width]["seconds"]) for width in widths)])
    sizes = ", ".join(f"{name} {_size(model['weight_bytes'])}" for name, model in models.items())
    read = _size(roofline["bandwidth_bytes_per_s"])
    return f"{_align(rows)}\nread bandwidth {read}/s; weights that a pass reads: {sizes}"


def _coupling(coupling: Figures) -> str:
    rows = [["temperature 1", "tokens", "same draw", "sum of min(p, q)", "over it"]]
    for kind, figures in coupling.items():
        row = [kind, str(figures["tokens"]), _number(figures["accepted"], 3), _number(figures["bound"], 3)]
        rows.append([*row, _number(figures["over_bound"], 3)])
    return _align(rows)


def _fidelity(fidelity: Figures) -> str:
    rows = [["against float32", "tokens", "mean KL", "worst", "perplexity", "change"]]
    for name, figures in fidelity.items():
        exact, now = figures["perplexity_float32"], figures["perplexity"]
        row = [name, str(figures["tokens"]), _number(figures["divergence"], 5), _number(figures["worst"], 3)]
        rows.append([*row, _number(now, 3), f"{100 * (now / exact - 1):+.2f} %"])
    return _align(rows)


def _align(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be: the first to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)


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


def _k(value: int | None) -> str:
    return "as it pays" if value is None else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _model(model: Figures) -> str:
    revision = f"@{model['revision'][:7]}" if model["revision"] else ""
    return f"{model['id']}{revision}, {model['device']}, {model['dtype']}, quant {model['quant']}"
