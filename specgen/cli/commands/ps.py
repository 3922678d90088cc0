"""specgen ps: the pairs that are loaded."""

import json as json_format
from collections.abc import Callable
from typing import Annotated, Any

import typer


def command(
    json: Annotated[bool, typer.Option("--json", help="One JSON array instead of a table.")] = False,
) -> None:
    """Show the pairs that are loaded: what each takes, and what it has done.

    Example:

        specgen ps --json
    """
    from specgen.serve.background.connection import status

    found = status()
    if json:
        typer.echo(json_format.dumps([found] if found else [], indent=2))
        return
    if found is None:
        typer.echo("specgen: no server runs; specgen serve -m MODEL starts one", err=True)
        return
    from specgen.core.words import format_bytes

    rows = [_HEADS, *(_row(pair, format_bytes) for pair in found["pairs"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    for row in rows if found["pairs"] else []:
        typer.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    address = " and ".join(filter(None, (found["url"], found["socket"])))
    about = f"process {found['pid']}, {format_bytes(found['memory'])} of memory, at {address}"
    typer.echo(f"{'' if found['pairs'] else 'no pair is loaded: '}{about}")


_HEADS = ("MODEL", "DRAFT", "MEMORY", "REQUESTS", "WAITING", "IDLE")


def _row(pair: dict[str, Any], format_bytes: Callable[[int], str]) -> tuple[str, ...]:
    loaded = pair["state"] != "loading"
    return (
        pair["model"],
        pair["draft"] or pair["drafter"] or "",
        format_bytes(pair["memory"]) if loaded else "",
        str(pair["requests"]),
        str(pair["waiting"]),
        _time(pair["idle_s"]) if pair["state"] == "idle" else pair["state"],
    )


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
