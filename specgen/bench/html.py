"""A report as one page that needs nothing else: tables, plots as SVG, and the report itself as JSON."""

import html
import json
from collections.abc import Mapping
from typing import Any

from specgen.bench.blocks import Block, blocks
from specgen.bench.plots import draw

Figures = Mapping[str, Any]

EMBEDDED, EMBEDDED_END = '<script type="application/json" id="report">', "</script>"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1.5rem 0 .5rem; display: block; overflow-x: auto; }
td, th { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; }
thead th { border-bottom: 2px solid #888; }
figure { margin: 1.5rem 0; }
svg { max-width: 100%; height: auto; }
"""


def page(report: Figures) -> str:
    """The page, drawn with matplotlib."""
    head, *rest = blocks(report)
    plots = "\n".join(
        f'<figure role="img" aria-label="{html.escape(title)}">{svg}</figure>' for title, svg in draw(report).items()
    )
    # "<" never stands in the script as it is, so that no text of the report can end it.
    data = json.dumps(report).replace("<", "\\u003c")
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>specgen bench</title>
<style>{_STYLE}</style></head>
<body>
<h1>specgen bench</h1>
{_block(head)}
{plots}
{"".join(map(_block, rest))}
{EMBEDDED}{data}{EMBEDDED_END}
</body>
</html>
"""


def _block(block: Block) -> str:
    made = ""
    if block.rows:
        head, *rows = block.rows
        cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
        made = f"<table><thead><tr>{cells}</tr></thead>\n<tbody>{body}</tbody></table>\n"
    return made + (f"<p>{'<br>'.join(map(html.escape, block.lines))}</p>\n" if block.lines else "")
