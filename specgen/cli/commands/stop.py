"""specgen stop: stop the running server."""

import typer


def command() -> None:
    """Stop the server of this user. It finishes the current answer if that takes only seconds.

    Example:

        specgen stop
    """
    from specgen.serve.background.connection import stop

    if not stop():
        typer.echo("specgen: no server runs", err=True)
