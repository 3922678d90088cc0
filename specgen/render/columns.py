"""Rows of cells as lines of aligned columns."""

from collections.abc import Collection, Sequence

from rich.cells import cell_len


def align(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """A line for each of `rows`, which are equally long; the columns in `right`, by number, are figures."""
    lines = [""] * len(rows)
    for at, column in enumerate(zip(*rows, strict=True)):
        width = max(map(cell_len, column))
        for number, cell in enumerate(column):
            blank = " " * (width - cell_len(cell))
            lines[number] += ("  " if at else "") + (blank + cell if at in right else cell + blank)
    return [line.rstrip() for line in lines]
