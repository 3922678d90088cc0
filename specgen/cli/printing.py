"""What a command has found, as JSON on stdout."""

import json

import typer


def print_json(data: object) -> None:
    """One value over several lines; control characters and all beyond ASCII are escaped."""
    typer.echo(json.dumps(data, indent=2, default=str))
