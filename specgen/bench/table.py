"""A report as text for a terminal, and as Markdown."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from specgen.bench.blocks import Block, blocks
from specgen.render.columns import align

Figures = Mapping[str, Any]


def render(report: Figures) -> str:
    """All of `report`, each line with its newline."""
    return "\n".join(f"{part}\n" for block in blocks(report) for part in [text(block)])


def markdown(report: Figures, header: Figures) -> str:
    """The same, and `header`, which is what it takes to run it again, as JSON at the end."""
    parts = ["# specgen bench", *map(_markdown, blocks(report))]
    return "\n\n".join([*parts, f"```json\n{json.dumps(header)}\n```"]) + "\n"


def text(block: Block) -> str:
    figures = range(1, len(block.rows[0])) if block.rows else ()
    return "\n".join([*align(block.rows, right=figures), *block.lines])


def _markdown(block: Block) -> str:
    lines = []
    if block.rows:
        head, *rows = block.rows
        lines = [_row(head), _row(["---", *["---:"] * (len(head) - 1)]), *map(_row, rows), ""]
    return "\n".join([*lines, *(f"{_escaped(line)}  " for line in block.lines)]).rstrip()


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    return "".join(f"\\{character}" if character in "\\`*_<>|[]#" else character for character in text)
