"""specgen ps: the server that runs."""

import json as json_format
from typing import Annotated

import typer


def command(
    json: Annotated[bool, typer.Option("--json", help="One JSON array instead of a table.")] = False,
) -> None:
    """Show the server of this user: what it has loaded, what that takes, and what it has done.

    Example:

        specgen ps --json
    """
    from specgen.serve.client import status

    found = status()
    if json:
        typer.echo(json_format.dumps([found] if found else [], indent=2))
        return
    if found is None:
        typer.echo("specgen: no server runs; specgen serve -m MODEL starts one", err=True)
        return
    from rich.filesize import decimal

    row = {
        "MODEL": found["model"],
        "DRAFT": found["draft"] or found["drafter"],
        "MEMORY": decimal(found["memory"]),
        "REQUESTS": str(found["requests"]),
        "WAITING": str(found["waiting"]),
        "IDLE": "busy" if found["running"] else _time(found["idle_s"]),
        "PID": str(found["pid"]),
        "ADDRESS": found["url"] or found["socket"],
    }
    widths = {name: max(len(name), len(value)) for name, value in row.items()}
    for line in (dict.fromkeys(row), row):
        cells = [f"{value or name:<{widths[name]}}" for name, value in line.items()]
        typer.echo("  ".join(cells).rstrip())


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
