"""The plots of a report, as SVG."""

import io
from collections.abc import Callable, Mapping
from typing import Any

Figures = Mapping[str, Any]

_POSITIONS = 16
_SIZE = (9.0, 4.2)


def draw(report: Figures) -> dict[str, str]:
    """Title -> SVG, of each plot that the report has figures for."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415 - an extra
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    plots: dict[str, tuple[bool, Callable[[Any, Figures], None]]] = {
        "Speed-up over plain decoding, by category": (True, _speed_ups),
        "Acceptance by position in the round": (
            any(each["acceptance_by_position"] for each in report["overall"].values()),
            _positions,
        ),
        "Speed by draft length": (bool(report.get("hindsight")), _draft_lengths),
        "Forward passes over the time that reading the weights takes": (bool(report.get("roofline")), _roofline),
    }
    drawn = {}
    for title, (known, plot) in plots.items():
        if known:
            figure = Figure(figsize=_SIZE, layout="constrained")
            axes = figure.add_subplot()
            plot(axes, report)
            axes.set_title(title)
            axes.grid(axis="y", alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
            FigureCanvasSVG(figure)
            out = io.StringIO()
            figure.savefig(out, format="svg", metadata={"Date": None})
            drawn[title] = out.getvalue()[out.getvalue().index("<svg") :]
    return drawn


def _speed_ups(axes: Any, report: Figures) -> None:
    """Bars by category, with the intervals; plain decoding is the line at 1."""
    tables = {"overall": report["overall"], **report["categories"]}
    if len(report["categories"]) == 1:
        del tables["overall"]
    names = [name for name in report["overall"] if name.split(" ")[0] != "plain"]
    width = 0.8 / max(1, len(names))
    for place, name in enumerate(names):
        at = [group + (place - (len(names) - 1) / 2) * width for group in range(len(tables))]
        heights = [table[name]["speed_up"] or 0.0 for table in tables.values()]
        intervals = [
            table[name]["intervals"]["speed_up"] or (height, height)
            for table, height in zip(tables.values(), heights, strict=True)
        ]
        below = [max(0.0, height - low) for height, (low, _) in zip(heights, intervals, strict=True)]
        above = [max(0.0, high - height) for height, (_, high) in zip(heights, intervals, strict=True)]
        axes.bar(at, heights, width, label=name, yerr=[below, above], error_kw={"linewidth": 1, "alpha": 0.6})
    axes.axhline(1.0, color="black", linewidth=1)
    axes.set_xticks(range(len(tables)), list(tables))
    axes.set_ylabel("times plain decoding")
    _legend(axes, len(names))


def _positions(axes: Any, report: Figures) -> None:
    shown = 0
    for name, figures in report["overall"].items():
        if found := figures["acceptance_by_position"][:_POSITIONS]:
            axes.plot(range(1, len(found) + 1), [100 * each for each in found], marker="o", label=name)
            shown += 1
    axes.set_ylim(0, 105)
    axes.set_xlabel("position in the round")
    axes.set_ylabel("accepted, %")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(axes, shown)


def _draft_lengths(axes: Any, report: Figures) -> None:
    """A line a drafter over fixed k, and auto as a dashed level in its colour."""
    for name, table in report["hindsight"].items():
        speeds = table["overall"]["tokens_per_second"]
        fixed = {int(k): speed for k, speed in speeds.items() if k != "auto"}
        (line,) = axes.plot(list(fixed), list(fixed.values()), marker="o", label=name)
        if "auto" in speeds:
            axes.axhline(speeds["auto"], linestyle="--", color=line.get_color(), label=f"{name}, auto")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("k, tokens drafted in a round")
    axes.set_ylabel("tok/s")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(axes, 2 * len(report["hindsight"]))


def _roofline(axes: Any, report: Figures) -> None:
    """Times by width; the bound as a dashed level in the same colour."""
    for name, model in report["roofline"]["models"].items():
        widths = {int(width): 1000 * figures["seconds"] for width, figures in model["widths"].items()}
        (line,) = axes.plot(list(widths), list(widths.values()), marker="o", label=name)
        if model["bound_s"]:
            axes.axhline(
                1000 * model["bound_s"], linestyle="--", color=line.get_color(), label=f"{name}, reading its weights"
            )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens in the pass")
    axes.set_ylabel("ms")
    _legend(axes, 4)


def _legend(axes: Any, entries: int) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize="small", ncols=1 + entries // 18)
