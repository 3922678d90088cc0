"""specgen log: list, search, show and delete past answers."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specgen.cli.ui import confirm, print_json
from specgen.core.errors import UsageError
from specgen.core.types import BUNDLED, Message, ModelRef
from specgen.core.words import plural

if TYPE_CHECKING:
    from specgen.history.rows import LoggedAnswer

app = typer.Typer(rich_markup_mode=None)

_Limit = Annotated[int, typer.Option("-n", "--limit", min=0, metavar="N", help="Maximum number of answers; 0: all.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
_LIMIT = 20
# Columns.
_MODEL_WIDTH = 24
_LABEL_WIDTH = 10


@app.callback(invoke_without_command=True)
def default(context: typer.Context, limit: _Limit = _LIMIT, json: _Json = False) -> None:
    """List the latest answers of the history, which stays on this machine.

    specgen run, chat and map log every answer with its prompt, models, settings and statistics, unless --no-log is
    given.

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
    from specgen.history.recorder import open_history

    with open_history() as answers:
        found = list(answers.answers(limit or None))
    _list(found, json=json, nothing="the history is empty")


@app.command()
def search(
    text: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Texts that all occur in an answer.")],
    limit: _Limit = _LIMIT,
    json: _Json = False,
) -> None:
    """List the answers with a text in the prompt or the answer, ignoring case.

    Example:

        specgen log search "merge conflict"
    """
    from specgen.history.recorder import open_history

    with open_history() as answers:
        found = list(answers.search(text, limit or None))
    _list(found, json=json, nothing="no answer contains that")


@app.command()
def show(
    id: Annotated[int | None, typer.Argument(metavar="ID", help="As listed; default: the latest answer.")] = None,  # noqa: A002
    text: Annotated[bool, typer.Option("--text", help="Print only the text of the answer, byte for byte.")] = False,
    json: _Json = False,
) -> None:
    """Show an answer: the conversation, models, settings and statistics.

    Example:

        specgen log show 12 --text > answer.txt
    """
    from specgen.history.recorder import open_history
    from specgen.render.terminal import is_terminal, put_exact

    with open_history() as answers:
        answer = answers.last() if id is None else answers.get(id)
        if answer is None:
            raise _unknown(id)
        messages = answers.messages(answer.id)
    if json:
        data = _data(answer) | {"messages": [{"role": each.role, "content": each.content} for each in messages]}
        print_json(data)
    elif text:
        put_exact(sys.stdout, _safe(answer.output) + "\n" * is_terminal(sys.stdout))
    else:
        put_exact(sys.stdout, _safe(_details(answer, messages)) + "\n")


@app.command()
def delete(
    ids: Annotated[list[int] | None, typer.Argument(metavar="ID...", help="As listed.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Delete all answers.")] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    json: _Json = False,
) -> None:
    """Delete answers permanently. Asks first.

    Later answers of the same conversation stay, without the deleted one. The lines that the editor of chats recalls are
    deleted with their answers.

    Example:

        specgen log delete 12 13
    """
    from specgen.history.recorder import open_history

    if bool(ids) == all_:
        raise UsageError("there is nothing to delete", hint="give the IDs of answers, or --all")
    wanted = list(dict.fromkeys(ids or []))
    with open_history() as answers:
        for each in wanted:
            if not answers.has(each):
                raise _unknown(each)
        what = "all answers" if all_ else plural(len(wanted), "answer")
        if not confirm(f"Delete {what}?", yes=yes, needs=f"deleting {what}"):
            typer.echo("Nothing was deleted.", err=True)
            raise typer.Exit(1)
        _forget_typed_lines(None if all_ else answers.prompts(wanted))
        deleted = answers.clear() if all_ else answers.delete(wanted)
    if json:
        print_json({"deleted": deleted})
    else:
        typer.echo(f"deleted {plural(deleted, 'answer')}")


@app.command()
def path(json: _Json = False) -> None:
    """Print the path of the history, an SQLite file.

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
    """Stop logging answers. Logged answers stay.

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


def _forget_typed_lines(prompts: Sequence[str] | None) -> None:
    """Remove these prompts, or everything, from the lines that the editor of chats recalls. Raises BadFile."""
    from specgen.core.errors import BadFile
    from specgen.core.words import reason
    from specgen.history import typed_lines

    try:
        typed_lines.forget_all() if prompts is None else typed_lines.forget(prompts)
    except OSError as error:
        hint = "check its permissions; nothing was deleted"
        raise BadFile(f"cannot change {typed_lines.location()}: {reason(error)}", hint=hint) from error


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
    from specgen.history.store import logging_is_on
    from specgen.render.terminal import columns, is_terminal, put_exact

    if json:
        print_json([_data(answer) for answer in answers])
        return
    if answers:
        width = columns(sys.stdout) if is_terminal(sys.stdout) else None
        put_exact(sys.stdout, _safe("".join(f"{line}\n" for line in _table(answers, width))))
    else:
        typer.echo(f"specgen: {nothing}", err=True)
    if not logging_is_on():
        typer.echo("specgen: answers are not logged; specgen log on logs them again", err=True)


def _safe(text: str) -> str:
    """`text` without control characters for a terminal, unchanged for a pipe."""
    from specgen.render.terminal import is_terminal, sanitize

    return sanitize(text) if is_terminal(sys.stdout) else text


def _unknown(id: int | None) -> UsageError:  # noqa: A002
    if id is None:
        return UsageError("the history is empty", hint="specgen run, chat and map log their answers")
    return UsageError(f"there is no answer {id}", hint="specgen log lists the answers")


def _data(answer: "LoggedAnswer") -> dict[str, Any]:
    """All fields by name, the time in UTC."""
    return asdict(answer) | {"time": answer.time.isoformat(timespec="milliseconds")}


def _table(answers: Sequence["LoggedAnswer"], columns: int | None) -> list[str]:
    """A line of titles and one line for each answer, cut to `columns` unless that is None."""
    from rich.cells import cell_len, set_cell_size

    rows = [("ID", "TIME", "KIND", "TARGET", "PROMPT")]
    for answer in answers:
        kind = f"{answer.kind} -t {answer.template}" if answer.template else answer.kind
        prompt = next((line for line in answer.prompt.splitlines() if line.strip()), "(continued)" * answer.raw).strip()
        rows.append((str(answer.id), _time(answer), kind, _short(answer.settings["target"]["id"]), prompt))
    widths = [max(cell_len(row[column]) for row in rows) for column in range(4)]
    padded = [[set_cell_size(text, width) for text, width in zip(row, widths, strict=False)] + [row[4]] for row in rows]
    return [_cut("  ".join(row).rstrip(), columns) for row in padded]


def _details(answer: "LoggedAnswer", messages: Sequence[Message]) -> str:
    """The settings, the conversation and the statistics of an answer."""
    settings, stats, sampling = answer.settings, answer.stats, answer.settings["sampling"]
    drafter = _model(settings["draft"]) if settings["draft"] else settings["drafter"]
    fields = {
        "answer": f"{answer.id}, {_time(answer)}, {answer.kind}, {answer.reason}",
        "template": answer.template,
        "target": _model(settings["target"]),
        "draft": drafter,
        "settings": ", ".join([settings["device"], settings["dtype"], f"quant {settings['quant']}", _length(settings)]),
        "sampling": "greedy" if not sampling["temperature"] else ", ".join(f"{k} {v}" for k, v in sampling.items()),
    }
    head = [f"{label:<{_LABEL_WIDTH}}{value}" for label, value in fields.items() if value is not None]
    said = [part for message in messages for part in ("", f"--- {message.role}", message.content)]
    return "\n".join([*head, *said, "", "--- assistant", answer.output, "", "--- statistics", *_figures(stats)])


def _figures(stats: Mapping[str, Any]) -> list[str]:
    speed_up = stats["speed_up"]
    shown = [
        f"{stats['generated_tokens']} tokens in {stats['elapsed_s']:.1f} s",
        f"{stats['tokens_per_second']:.1f} tok/s",
    ]
    if speed_up is not None:
        shown.append(f"{'~' if stats['speed_up_is_estimate'] else ''}{speed_up:.1f}x plain decoding")
    if stats["drafted_tokens"]:
        shown.append(f"acceptance rate {100 * stats['acceptance_rate']:.0f} % of {stats['drafted_tokens']}")
        shown.append(f"mean acceptance length {stats['mean_acceptance_length']:.1f}")
    return [" · ".join(shown)]


def _time(answer: "LoggedAnswer") -> str:
    return answer.time.astimezone().strftime("%Y-%m-%d %H:%M")


def _length(settings: Mapping[str, Any]) -> str:
    return f"draft length {'auto' if settings['num_draft_tokens'] is None else settings['num_draft_tokens']}"


def _model(model: Mapping[str, Any]) -> str:
    return str(ModelRef.at(str(model["id"]), model["revision"]))


def _short(id: str) -> str:  # noqa: A002
    name = id.removeprefix(BUNDLED).removesuffix("/target") if id.startswith(BUNDLED) else id.rpartition("/")[2]
    return _cut(name, _MODEL_WIDTH)


def _cut(text: str, width: int | None) -> str:
    from rich.cells import cell_len, set_cell_size

    return text if width is None or cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"
