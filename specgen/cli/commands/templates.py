"""specgen templates: list and show saved prompts."""

from typing import Annotated, Any

import typer

from specgen.cli.ui import print_json

app = typer.Typer(rich_markup_mode=None)

_Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


@app.callback(invoke_without_command=True)
def default(context: typer.Context, json: _Json = False) -> None:
    """List and show templates, which specgen -t NAME uses and specgen --save NAME writes.

    A template is a TOML file that you can edit; docs/history.md describes it.

    Examples:

        specgen --temp 0 --save commit "Write a commit message for this diff: {input}"
        git diff | specgen -t commit -m org/target
    """
    if context.invoked_subcommand is None:
        list_(json)


@app.command("list")
def list_(json: _Json = False) -> None:
    """List the templates.

    Example:

        specgen templates list --json
    """
    from specgen.config import templates
    from specgen.core.errors import SpecgenError
    from specgen.render.terminal import align

    rows: list[tuple[str, str]] = []
    data: list[dict[str, Any]] = []
    for name in templates.names():
        try:
            template = templates.load(name)
        except SpecgenError as error:  # one wrong file must not hide the others
            rows.append((name, error.message))
            data.append({"name": name, "error": error.message})
        else:
            rows.append((name, template.about or _first_line(template.prompt or template.system)))
            data.append({"name": name, **_data(template)})
    if json:
        print_json(data)
        return
    for line in align([(name, _safe(about)) for name, about in rows]):
        typer.echo(line)
    if not rows:
        typer.echo("specgen: there are no templates; specgen --save NAME writes one", err=True)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As listed.")],
    json: _Json = False,
) -> None:
    """Show the file of a template and its variables.

    Example:

        specgen templates show commit
    """
    from specgen.config import templates

    template = templates.load(name)
    if json:
        data = {"name": name, "path": str(templates.location(name)), "variables": template.variables}
        print_json(data | _data(template))
        return
    typer.echo(_safe(templates.location(name).read_text(encoding="utf-8").rstrip("\n")))
    if template.variables:
        typer.echo(f"specgen: variables: {', '.join(template.variables)}", err=True)


@app.command()
def path(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="As listed; default: the folder.")] = None,
    json: _Json = False,
) -> None:
    """Print the path of a template, or of the folder.

    Example:

        $EDITOR "$(specgen templates path commit)"
    """
    from specgen.config import templates

    if name is not None:
        templates.load(name)
    where = templates.folder() if name is None else templates.location(name)
    if json:
        print_json({"path": str(where)})
    else:
        typer.echo(where)


def _data(template: Any) -> dict[str, Any]:
    keys = ("about", "prompt", "system", "defaults", "options")
    return {key: getattr(template, key) for key in keys}


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _safe(text: str) -> str:
    from specgen.render.terminal import sanitize

    return sanitize(text)
