"""specgen map: answer every line or JSON record of the input."""

import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from specgen.cli.default_model import named_model
from specgen.cli.inputs import read_constraint
from specgen.cli.map.records import INPUT, Records, check_template, prompt_of
from specgen.cli.options import (
    ConstraintOptions,
    GenerationOptions,
    KeepAlive,
    ModelOptions,
    NoLog,
    Think,
    grouped,
    seconds,
)
from specgen.cli.ui import warn
from specgen.core.defaults import KEEP_ALIVE
from specgen.core.errors import UsageError
from specgen.core.types import NONE
from specgen.render.terminal import is_terminal

_PROMPT = "prompt"
# Records that --batch auto answers at once, and the most that it takes.
_AUTO, _MOST = 16, 256


def _batch(text: str | int) -> int:
    """The records of a batch. Raises UsageError."""
    if text == "auto":
        return _AUTO
    if not re.fullmatch("[0-9]{1,3}", str(text)) or not 1 <= int(text) <= _MOST:
        raise UsageError(f"--batch is '{text}'", hint=f"give a number from 1 to {_MOST}, or auto")
    return int(text)


@grouped
def command(  # noqa: PLR0913, PLR0917 - one parameter for each option
    models: ModelOptions,
    generation: GenerationOptions,
    constraint: ConstraintOptions,
    prompt: Annotated[
        str,
        typer.Argument(metavar="[PROMPT]", help="What to ask for each record; {field} is a field, {input} the line."),
    ] = "",
    file: Annotated[
        list[Path] | None,
        typer.Option("-f", "--file", metavar="FILE", help="Read records from FILE instead of stdin. Repeatable."),
    ] = None,
    field: Annotated[
        str | None,
        typer.Option("--field", metavar="NAME", help=f"Field of JSON records with the text; default: '{_PROMPT}'."),
    ] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Treat every line as text, even JSON.")] = False,
    system: Annotated[str | None, typer.Option("-s", "--system", metavar="TEXT", help="System prompt.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without a chat template.")] = False,
    think: Think = None,
    json: Annotated[
        bool, typer.Option("--json", help="Write JSON lines: the fields of the record, output, stats.")
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="FILE", help="Write to FILE, and skip the records whose results it holds."),
    ] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Print the summary even if stderr is not a terminal.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print only results and errors.")] = False,
    batch: Annotated[
        int,
        typer.Option(
            "--batch",
            parser=_batch,
            metavar="auto|N",
            help="Records to answer at once, in shared passes and in this process; auto: 16, or as many as fit.",
        ),
    ] = 1,
    unordered: Annotated[
        bool, typer.Option("--unordered", help="Write each result as soon as it is there; with --json.")
    ] = False,
    no_log: NoLog = False,
    keep_alive: KeepAlive = KEEP_ALIVE,
) -> None:
    """Answer every line of stdin or of files with one line.

    If the first line is a JSON object, all records are JSON; otherwise a record is a line of text. The prompt is the
    text, followed by PROMPT, or PROMPT with {input} or {field} filled in. The models are loaded once, and the results
    are in order. --batch answers several records at once, which is faster; the texts are the same.

    Examples:

        specgen map -m stories --raw -n 20 < beginnings.txt
        specgen map -m org/target -d org/draft -j person.json "Who is this? {input}" < lines.txt > people.jsonl
        specgen map -m org/target --json --resume out.jsonl "Translate into French: {text}" < in.jsonl
    """
    if unordered and (resume is not None or not json):
        raise UsageError("--unordered needs --json and no --resume", hint="leave one of them out")
    target = named_model(models)
    wanted = read_constraint(constraint)
    records = Records(file or [], lines=lines, quiet=quiet)
    if not records.is_json and not records.is_empty:
        check_template(prompt)
        if field is not None:
            raise UsageError("--field is for JSON records, but the input is lines of text", hint="leave it out")

    from specgen.cli.map.results import Results
    from specgen.cli.map.run import Mapper
    from specgen.config.pairs import canonical_name
    from specgen.history.recorder import Recorder
    from specgen.serve.background.client import BackgroundSession

    name = field or (_PROMPT if records.is_json else INPUT)
    options = {
        "model": canonical_name(target),
        "prompt": prompt,
        "field": name,
        "system": system,
        "raw": raw,
        "think": think,
        "json": json,
        "constraint": wanted and asdict(wanted),
        **asdict(generation),
    }
    with (
        Recorder("map", warn, on=not no_log) as recorder,
        BackgroundSession(
            target,
            models.draft if batch == 1 else NONE,
            models.engine(),
            seconds(keep_alive) if batch == 1 else 0.0,
            uses_history=not no_log,
        ) as session,
    ):
        Mapper(
            session=session,
            prompt=lambda record: prompt_of(record, prompt, name),
            generation={
                "system": system,
                "raw": raw,
                "sampling": generation.sampling(),
                "max_new_tokens": generation.max_tokens,
                "stop": generation.stop,
                "think": think,
                "constraint": wanted,
            },
            results=Results(resume, as_json=json, options=options),
            recorder=recorder,
            quiet=quiet,
            stats=stats or is_terminal(sys.stderr),
            batch=batch,
            unordered=unordered,
        ).run(records)
