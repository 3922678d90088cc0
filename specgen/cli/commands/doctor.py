"""specgen doctor: is everything here that fast and correct generation needs?"""

import dataclasses
import sys
from typing import Annotated

import typer

from specgen.cli.options import grouped
from specgen.cli.ui import print_json


@grouped
def command(
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the hub.")] = False,
) -> None:
    """Check this machine and this installation, and say what to do about what is not as it should be.

    A warning is about speed or room. Exit code 1 if something fails, which keeps specgen from working.

    Examples:

        specgen doctor
        specgen doctor --json --offline
    """
    from specgen.doctor.examination import examine
    from specgen.doctor.finding import Finding, Verdict
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
    worst = next((each for each in reversed(Verdict) if any(found.verdict is each for found in findings)), Verdict.OK)
    if json:
        checks = [dataclasses.asdict(found) for found in findings]
        print_json({"verdict": worst, "checks": checks})
    if worst is Verdict.FAIL:
        raise typer.Exit(1)
