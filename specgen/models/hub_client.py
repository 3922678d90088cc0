"""huggingface_hub, set up for specgen: silent, patient with cut connections, quick to stop.

Everything that needs huggingface_hub imports it through here. What it would say on the terminal comes as events.
"""

import logging
import warnings
from collections.abc import Iterator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about deprecated HF_* variables
    import huggingface_hub

import httpx2
from huggingface_hub import constants

import specgen

__all__ = ["api", "constants", "huggingface_hub", "resume_after_resets"]


logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", message="Not enough free disk space", category=UserWarning)
# Otherwise the first request of a day is preceded by one that only decorates the User-Agent header.
constants.HF_HUB_DISABLE_TELEMETRY = True
# Plain HTTP goes on where a connection broke off and stops when the progress callback raises; Xet does neither.
constants.HF_HUB_DISABLE_XET = True
# 10 MB by default, which is what a cut loses and how long a slow line shows no progress and cannot be stopped.
constants.DOWNLOAD_CHUNK_SIZE = 64 * 1024


def api() -> huggingface_hub.HfApi:
    """The client, for the endpoint and the token of the moment."""
    return huggingface_hub.HfApi(
        endpoint=constants.ENDPOINT, library_name="specgen", library_version=specgen.__version__
    )


def resume_after_resets() -> None:
    """Let a download go on after a reset connection, which huggingface_hub does only after a closed one."""
    client = huggingface_hub.get_session()
    hooks = client.event_hooks
    if _soften_resets not in hooks["response"]:
        client.event_hooks = {**hooks, "response": [*hooks["response"], _soften_resets]}


def _soften_resets(response: httpx2.Response) -> None:
    if isinstance(response.stream, httpx2.SyncByteStream):
        response.stream = _Body(response.stream)


class _Body(httpx2.SyncByteStream):
    """A response's body in which a reset connection looks like one that was closed too early."""

    def __init__(self, stream: httpx2.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except httpx2.ReadError as error:
            raise httpx2.RemoteProtocolError(str(error)) from error

    def close(self) -> None:
        self._stream.close()
