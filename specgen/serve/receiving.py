"""What comes from a caller: a body, and the end of the connection."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from specgen.serve.engine import Job
from specgen.serve.failures import Refused
from specgen.serve.limits import Limits


async def cancel_when_gone(request: Request, job: Job) -> None:
    """Nobody reads on when the connection ends: give the engine to the next."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.cancel()


async def whole_body(request: Request, limits: Limits) -> bytes:
    """The whole body. Raises Refused for one that is too large or too slow."""
    close = {"Connection": "close"}  # what is still to come is not read
    large = Refused(f"the body has more than {limits.body} bytes", status=413, code="body_too_large", headers=close)
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
        raise Refused(f"the body took longer than {limits.body_s:.0f} s", status=408, headers=close) from None
    except ClientDisconnect:
        raise Refused("the caller has gone") from None
    return bytes(body)
