"""specgen config: list and change settings."""

import json as json_format
import sys
from typing import Annotated, Any

import typer

from specgen.cli.completion import profiles, setting_keys
from specgen.cli.ui import print_json

app = typer.Typer(rich_markup_mode=None)

_Profile = Annotated[
    str | None, typer.Option(metavar="NAME", autocompletion=profiles, help="The settings of [profiles.NAME].")
]
_Project = Annotated[
    bool, typer.Option("--project", help="Use the specgen.toml of the project: the nearest one, or one in this folder.")
]
_Key = Annotated[
    str, typer.Argument(metavar="KEY", autocompletion=setting_keys, help="As listed; the option's name without --.")
]
_Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


@app.callback(invoke_without_command=True)
def about(context: typer.Context) -> None:
    """List and change settings, which are the defaults of options.

    A flag overrides the environment (SPECGEN_MAX_TOKENS=50), which overrides the specgen.toml of the project, which
    overrides your own file. See docs/configuration.md.

    Examples:

        specgen config set model stories
        specgen config set max-tokens 50 --profile short
        specgen config list
        specgen run --profile short "Once upon a time"
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("list")
def list_(profile: _Profile = None, json: _Json = False) -> None:
    """List every setting with its value and the source of the value.

    Examples:

        specgen config list
        specgen config list --json
    """
    from specgen.cli.settings_editor import current_settings
    from specgen.render.terminal import align

    rows = current_settings(profile)
    if json:
        print_json({row.key: _plain(row) for row in rows})
        return
    for line in align([(row.key, "" if row.value is None else _text(row.value), _origin(row)) for row in rows]):
        _say(line)


@app.command()
def get(key: _Key, profile: _Profile = None, json: _Json = False) -> None:
    """Print the value of one setting; nothing if it has no value.

    Examples:

        specgen config get max-tokens
        specgen config get model --json
    """
    from specgen.cli.settings_editor import current_settings
    from specgen.config.settings import canonical

    wanted = canonical(key)
    row = next(row for row in current_settings(profile) if row.key == wanted)
    if json:
        print_json({"key": row.key, **_plain(row)})
    elif row.value is not None:
        _say("\n".join(row.value) if isinstance(row.value, list) else _text(row.value))


@app.command("set", context_settings={"ignore_unknown_options": True})  # a value may be negative
def set_(
    key: _Key,
    value: Annotated[list[str], typer.Argument(metavar="VALUE...", help="Only stop takes more than one.")],
    profile: _Profile = None,
    project: _Project = False,
) -> None:
    """Set a setting in your own file. Comments in the file stay.

    Examples:

        specgen config set model stories
        specgen config set offline true
        specgen config set temp 0.7 --profile draft-text
    """
    from specgen.cli.settings_editor import change
    from specgen.core.errors import UsageError
    from specgen.core.words import did_you_mean

    if options := [word for word in value if word.startswith("--")]:
        hint = did_you_mean(options[0], ("--project", "--profile"), "specgen config edit can set such a value")
        raise UsageError(f"no option {options[0]}", hint=hint)
    path = change(key, value, profile=profile, project=project)
    typer.echo(f"set {key} in {path}", err=True)


@app.command()
def unset(key: _Key, profile: _Profile = None, project: _Project = False) -> None:
    """Remove a setting from your own file.

    Example:

        specgen config unset max-tokens
    """
    from specgen.cli.settings_editor import change

    path = change(key, None, profile=profile, project=project)
    typer.echo(f"removed {key} from {path}", err=True)


@app.command()
def edit(project: _Project = False) -> None:
    """Open your file in $VISUAL or $EDITOR. It is checked before it is saved.

    Example:

        specgen config edit --project
    """
    from specgen.cli import settings_editor

    path, changed = settings_editor.edit(project)
    typer.echo(f"{'saved' if changed else 'nothing was changed in'} {path}", err=True)


@app.command()
def path(project: _Project = False) -> None:
    """Print the path of your settings file, whether or not it exists.

    Examples:

        specgen config path
        specgen config path --project
    """
    from specgen.cli.settings_editor import settings_path

    _say(str(settings_path(project)))


def _plain(row: Any) -> dict[str, Any]:
    return {"value": row.value, "source": row.source.value, "where": row.where or None, "profile": row.profile}


def _origin(row: Any) -> str:
    if not row.where:
        return str(row.source.value)
    profile = f", profile {row.profile}" if row.profile else ""
    return f"{row.source.value}: {row.where}{profile}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json_format.dumps(value, ensure_ascii=False)


def _say(line: str) -> None:
    from specgen.render.terminal import put, sanitize

    put(sys.stdout, sanitize(line) + "\n")
