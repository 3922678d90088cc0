"""specgen serve: answer OpenAI's API with loaded pairs."""

import os
import sys
from typing import Annotated

import typer

from specgen.cli.default_model import named_model
from specgen.cli.options import ModelOptions, checked_time, grouped, seconds


@grouped
def command(
    models: ModelOptions,
    http: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Also answer over HTTP at this address, for example 127.0.0.1:8080."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="SPECGEN_API_KEY",
            metavar="KEY",
            show_envvar=True,
            help="Key that HTTP callers must send. Required if other machines can reach HOST.",
        ),
    ] = None,
    keep_alive: Annotated[
        str | None,
        typer.Option(
            parser=checked_time,
            metavar="TIME",
            help="Stop after this time without a request: 30s, 5m, 1h, or a number of minutes.",
        ),
    ] = None,
) -> None:
    """Keep a pair loaded and answer OpenAI's API, on a socket of this user, and with --http over HTTP.

    `specgen ps` shows the server. `specgen stop` or Ctrl-C stops it. It replaces a background process of `specgen run`.

    Example:

        specgen serve -m stories --http 127.0.0.1:8080
    """
    target = named_model(models)

    from specgen.serve.background.fingerprint import Fingerprint

    fingerprint = Fingerprint.own()

    from specgen.config.pairs import canonical_name
    from specgen.render import make_renderer
    from specgen.serve.background.connection import stop_background
    from specgen.serve.background.endpoint import open_endpoint
    from specgen.serve.server import Server
    from specgen.serve.worker.pool import PairKey

    renderer = make_renderer(stdout=sys.stdout, stderr=sys.stderr, json=False, stream=True, quiet=False, stats=False)
    with open_endpoint(http, has_key=bool(api_key), make_way=stop_background) as endpoint:
        try:
            ended = Server(
                endpoint,
                PairKey(canonical_name(target), canonical_name(models.draft), models.engine()),
                key=api_key or None,
                keep_alive_s=seconds(keep_alive) or None if keep_alive else None,
                show=renderer.show,
                fingerprint=fingerprint,
            ).run()
        finally:
            renderer.close()
    if not ended:
        os._exit(0)  # the worker thread is in the middle of a pass and cannot be ended otherwise
