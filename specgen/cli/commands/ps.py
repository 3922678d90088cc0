"""specgen ps: the loaded pairs."""

from typing import Annotated, Any

import typer

from specgen.cli.ui import print_json

_HEADS = ("MODEL", "DRAFT", "MEMORY", "REQUESTS", "WAITING", "IDLE")


def command(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON array instead of a table.")] = False,
) -> None:
    """Show the loaded pairs with their memory and requests.

    Example:

        specgen ps --json
    """
    from specgen.serve.background.connection import status

    found = status()
    if json:
        print_json([found] if found else [])
        return
    if found is None:
        typer.echo("specgen: no server runs; specgen serve -m MODEL starts one", err=True)
        return
    from specgen.core.words import format_bytes
    from specgen.render.terminal import align

    for line in align([_HEADS, *(_row(pair) for pair in found["pairs"])]) if found["pairs"] else []:
        typer.echo(line)
    address = " and ".join(filter(None, (found["url"], found["socket"])))
    kind = "in the background" if found["background"] else "specgen serve"
    about = f"process {found['pid']} ({kind}), {format_bytes(found['memory'])} of memory, at {address}"
    typer.echo(f"{'' if found['pairs'] else 'no pair is loaded: '}{about}")


def _row(pair: dict[str, Any]) -> tuple[str, ...]:
    from specgen.core.words import format_bytes

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
