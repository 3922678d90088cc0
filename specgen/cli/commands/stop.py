"""specgen stop: end the server that runs."""

import typer


def command() -> None:
    """End the server of this user, after the answer that it is giving, or some seconds of it.

    Example:

        specgen stop
    """
    from specgen.serve.background.connection import stop

    if not stop():
        typer.echo("specgen: no server runs", err=True)
