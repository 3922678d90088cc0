"""specgen doctor: checks this machine and this installation."""

import dataclasses
import sys
from typing import Annotated

import typer

from specgen.cli.options import grouped
from specgen.cli.ui import print_json


@grouped
def command(
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Do not contact the hub.")] = False,
) -> None:
    """Check this machine and this installation, and advise what to do.

    A warning is about speed or space. A failure keeps specgen from working; then the exit code is 1.

    Examples:

        specgen doctor
        specgen doctor --json --offline
    """
    from specgen.doctor import Finding, Status, examine
    from specgen.render.progress import ProgressLine
    from specgen.render.terminal import sanitize

    findings: list[Finding] = []
    line = ProgressLine(sys.stderr)
    try:
        for event in examine(offline=offline):
            if not isinstance(event, Finding):
                line.show(event)
                continue
            findings.append(event)
            if not json:
                line.close()
                typer.echo(sanitize(f"{event.verdict:<5} {event.check:<15} {event.found}"))
                if event.advice:
                    typer.echo(sanitize(f"{'':<21} -> {event.advice}"))
    finally:
        line.close()
    worst = next((each for each in reversed(Status) if any(found.verdict is each for found in findings)), Status.OK)
    if json:
        checks = [dataclasses.asdict(found) for found in findings]
        print_json({"verdict": worst, "checks": checks})
    if worst is Status.FAIL:
        raise typer.Exit(1)
