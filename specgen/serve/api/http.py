"""What comes from a caller: a body, and the end of the connection."""

import asyncio
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from specgen.serve.api.errors import ApiError
from specgen.serve.worker.worker import Job


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Sizes in bytes, times in seconds.

    `contexts` is what keys and values of earlier contexts may take beside those in use.

    `head_s` and `body_s` are for a caller to send the head and the body of a request, `stalled_s` is how long it may
    take nothing of an answer. `stop_s` is what the answer that runs may still take when the server is asked to end,
    and `last_s` what its last round may take then.
    """

    body: int = 8 << 20
    head: int = 64 << 10
    connections: int = 256
    waiting: int = 64
    stops: int = 16
    contexts: int = 512 << 20
    head_s: float = 10.0
    body_s: float = 30.0
    stalled_s: float = 60.0
    idle_connection_s: int = 30
    stop_s: float = 10.0
    last_s: float = 3.0


async def cancel_when_gone(request: Request, job: Job) -> None:
    """Nobody reads on when the connection ends: give the worker to the next."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.cancel()


async def whole_body(request: Request, limits: RequestLimits) -> bytes:
    """The whole body. Raises ApiError for one that is too large or too slow."""
    close = {"Connection": "close"}  # what is still to come is not read
    large = ApiError(f"the body has more than {limits.body} bytes", status=413, code="body_too_large", headers=close)
    if int(request.headers.get("content-length", 0)) > limits.body:
        raise large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_s):
            async for piece in request.stream():
                body += piece
                if len(body) > limits.body:
                    raise large
    except TimeoutError:
        raise ApiError(f"the body took longer than {limits.body_s:.0f} s", status=408, headers=close) from None
    except ClientDisconnect:
        raise ApiError("the caller has gone") from None
    return bytes(body)
