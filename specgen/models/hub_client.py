"""huggingface_hub, set up for specgen: silent, and quick to stop.

Everything that needs huggingface_hub imports it through here. What it would say on the terminal comes as events.
"""

import logging
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about deprecated HF_* variables
    import huggingface_hub

from huggingface_hub import constants
from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils._headers import build_hf_headers

import specgen

__all__ = ["api", "constants", "headers", "huggingface_hub", "url_of"]


hub_logging.set_verbosity(logging.CRITICAL)
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


def headers() -> dict[str, str]:
    """What goes with a request that `api` does not make: the token of the moment, and who asks."""
    return build_hf_headers(library_name="specgen", library_version=specgen.__version__)


def url_of(model: str, name: str, commit: str) -> str:
    """Where the hub has a file; large ones are elsewhere, and it sends there for a while."""
    return huggingface_hub.hf_hub_url(model, name, revision=commit, endpoint=constants.ENDPOINT)
