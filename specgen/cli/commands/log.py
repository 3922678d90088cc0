"""specgen log: the answers so far."""

import sys
from typing import Annotated, Any

import typer

from specgen.cli.ui import confirm, print_json
from specgen.core.errors import UsageError

app = typer.Typer(rich_markup_mode=None)

_Limit = Annotated[int, typer.Option("-n", "--limit", min=0, metavar="N", help="Answers to list at most; 0: all.")]
_Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
_LIMIT = 20


@app.callback(invoke_without_command=True)
def default(context: typer.Context, limit: _Limit = _LIMIT, json: _Json = False) -> None:
    """Read the history of answers, which stays on this machine.

    specgen run, chat and map log every answer with its prompt, models, settings and statistics, unless --no-log is
    given.
    Without a sub-command the latest answers are listed.

    Examples:

        specgen log search "merge conflict"
        specgen log show 12
        specgen log delete --all
    """
    if context.invoked_subcommand is None:
        list_(limit, json)


@app.command("list")
def list_(limit: _Limit = _LIMIT, json: _Json = False) -> None:
    """List answers, the latest first.

    Example:

        specgen log list --limit 5 --json
    """
    from specgen.history.recorder import history

    with history() as answers:
        found = list(answers.answers(limit or None))
    _list(found, json=json, nothing="the history is empty")


@app.command()
def search(
    text: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Each of these has to occur.")],
    limit: _Limit = _LIMIT,
    json: _Json = False,
) -> None:
    """List the answers in which a text occurs, in the prompt or the answer; capitals or not.

    Example:

        specgen log search "merge conflict"
    """
    from specgen.history.recorder import history

    with history() as answers:
        found = list(answers.search(text, limit or None))
    _list(found, json=json, nothing="no answer has that")


@app.command()
def show(
    id: Annotated[int | None, typer.Argument(metavar="ID", help="As listed; the latest answer if left out.")] = None,  # noqa: A002
    text: Annotated[bool, typer.Option("--text", help="Only the answer's text, byte for byte.")] = False,
    json: _Json = False,
) -> None:
    """Show an answer: what it answered, the text, models, settings and statistics.

    Example:

        specgen log show 12 --text > answer.txt
    """
    from specgen.cli.showing import as_data, in_full
    from specgen.history.recorder import history
    from specgen.render.terminal import is_terminal, put_exact

    with history() as answers:
        answer = answers.last() if id is None else answers.get(id)
        if answer is None:
            raise _unknown(id)
        messages = answers.messages(answer.id)
    if json:
        data = as_data(answer) | {"messages": [{"role": each.role, "content": each.content} for each in messages]}
        print_json(data)
    elif text:
        put_exact(sys.stdout, _safe(answer.output) + "\n" * is_terminal(sys.stdout))
    else:
        put_exact(sys.stdout, _safe(in_full(answer, messages)) + "\n")


@app.command()
def delete(
    ids: Annotated[list[int] | None, typer.Argument(metavar="ID...", help="As listed.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    json: _Json = False,
) -> None:
    """Delete answers for good. Asks first.

    A conversation that went on from a deleted answer goes on without it.

    Example:

        specgen log delete 12 13
    """
    from specgen.history.recorder import history

    if bool(ids) == all_:
        raise UsageError("it is not said what to delete", hint="give the IDs of answers, or --all")
    wanted = list(dict.fromkeys(ids or []))
    with history() as answers:
        for each in wanted:
            if answers.get(each) is None:
                raise _unknown(each)
        what = "all answers" if all_ else _count(len(wanted))
        if not confirm(f"Delete {what}?", yes=yes, needs=f"deleting {what}"):
            typer.echo("Nothing was deleted.", err=True)
            raise typer.Exit(1)
        deleted = answers.clear() if all_ else answers.delete(wanted)
    if json:
        print_json({"deleted": deleted})
    else:
        typer.echo(f"deleted {_count(deleted)}")


@app.command()
def path(json: _Json = False) -> None:
    """Print where the history is: an SQLite file.

    Example:

        sqlite3 "$(specgen log path)"
    """
    from specgen.history.store import location, logging_is_on

    if json:
        print_json({"path": str(location()), "exists": location().exists(), "logging": logging_is_on()})
    else:
        typer.echo(location())


@app.command()
def off() -> None:
    """Log no answers from now on. What is logged stays.

    Example:

        specgen log off
    """
    _switch(False)


@app.command()
def on() -> None:
    """Log answers again.

    Example:

        specgen log on
    """
    _switch(True)


def _switch(to: bool) -> None:
    from specgen.core.errors import BadFile
    from specgen.core.files import data_folder
    from specgen.history.store import switch_logging

    try:
        switch_logging(to)
    except OSError as error:
        raise BadFile(f"cannot write to {data_folder()}: {error.strerror}", hint="check its permissions") from error
    typer.echo("answers are logged" if to else "answers are not logged; specgen log on logs them again", err=True)


def _list(answers: list[Any], *, json: bool, nothing: str) -> None:
    from specgen.cli.showing import as_data, table
    from specgen.history.store import logging_is_on
    from specgen.render.terminal import columns, is_terminal, put_exact

    if json:
        print_json([as_data(answer) for answer in answers])
        return
    if answers:
        width = columns(sys.stdout) if is_terminal(sys.stdout) else None
        put_exact(sys.stdout, _safe("".join(f"{line}\n" for line in table(answers, width))))
    else:
        typer.echo(f"specgen: {nothing}", err=True)
    if not logging_is_on():
        typer.echo("specgen: answers are not logged; specgen log on logs them again", err=True)


def _safe(text: str) -> str:
    """What was said cannot drive a terminal; a pipe gets it as it was."""
    from specgen.render.terminal import is_terminal, sanitize

    return sanitize(text) if is_terminal(sys.stdout) else text


def _unknown(id: int | None) -> UsageError:  # noqa: A002
    if id is None:
        return UsageError("the history is empty", hint="specgen run, chat and map log their answers")
    return UsageError(f"there is no answer {id}", hint="specgen log lists those there are")


def _count(number: int) -> str:
    return f"{number} answer" if number == 1 else f"{number} answers"
