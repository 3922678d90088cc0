"""A report as one self-contained HTML page with tables, SVG plots and the report as JSON."""

import html
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

from specgen.bench.tables import ReportTable, report_tables

Figures = Mapping[str, Any]

EMBEDDED, EMBEDDED_END = '<script type="application/json" id="report">', "</script>"

_POSITIONS = 16  # drafted positions shown in the plot
_SIZE = (9.0, 4.2)  # of a plot, inches

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1.5rem 0 .5rem; display: block; overflow-x: auto; }
td, th { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; }
thead th { border-bottom: 2px solid #888; }
figure { margin: 1.5rem 0; }
svg { max-width: 100%; height: auto; }
"""


def html_page(report: Figures) -> str:
    """Render `report`. Needs matplotlib."""
    head, *rest = report_tables(report)
    plots = "\n".join(
        f'<figure role="img" aria-label="{html.escape(title)}">{svg}</figure>' for title, svg in _draw(report).items()
    )
    # Escape "<", so that no text of the report can close the script element.
    data = json.dumps(report).replace("<", "\\u003c")
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>specgen bench</title>
<style>{_STYLE}</style></head>
<body>
<h1>specgen bench</h1>
{_table(head)}
{plots}
{"".join(map(_table, rest))}
{EMBEDDED}{data}{EMBEDDED_END}
</body>
</html>
"""


def _table(table: ReportTable) -> str:
    made = ""
    if table.rows:
        head, *rows = table.rows
        cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
        made = f"<table><thead><tr>{cells}</tr></thead>\n<tbody>{body}</tbody></table>\n"
    return made + (f"<p>{'<br>'.join(map(html.escape, table.lines))}</p>\n" if table.lines else "")


def _draw(report: Figures) -> dict[str, str]:
    """Return title -> SVG of each plot for which the report has figures."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415 - an optional dependency
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional dependency

    plots: dict[str, tuple[bool, Callable[[Any, Figures], None]]] = {
        "Speed-up over plain decoding, by category": (True, _speed_ups),
        "Acceptance by position in the round": (
            any(each["acceptance_by_position"] for each in report["overall"].values()),
            _positions,
        ),
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
    """Draw bars by category with intervals. The line at 1 is plain decoding."""
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


def _roofline(axes: Any, report: Figures) -> None:
    """Draw times by width. A dashed line in the same colour is the bound."""
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
