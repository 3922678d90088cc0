"""The huggingface_hub client, configured for specgen, and its errors in words.

Import huggingface_hub through this module. It prints nothing: progress and warnings become events.
"""

import errno
import logging
import warnings

import httpx2
from huggingface_hub import constants, errors
from huggingface_hub.utils import logging as hub_logging
from huggingface_hub.utils._headers import build_hf_headers

import specgen
from specgen.core.errors import AccessDenied, DownloadFailed, ModelNotFound, SpecgenError
from specgen.core.types import ModelRef

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns of deprecated HF_* variables
    import huggingface_hub


__all__ = ["api", "constants", "headers", "huggingface_hub", "url_of"]


hub_logging.set_verbosity(logging.CRITICAL)
warnings.filterwarnings("ignore", message="Not enough free disk space", category=UserWarning)
# Telemetry costs one extra request a day, which only fills the User-Agent header.
constants.HF_HUB_DISABLE_TELEMETRY = True
# Plain HTTP resumes broken downloads and stops when the progress callback raises. Xet does neither.
constants.HF_HUB_DISABLE_XET = True
# The default is 10 MB. A cut loses one chunk, and a slow connection reports progress only once a chunk.
constants.DOWNLOAD_CHUNK_SIZE = 64 * 1024


def api() -> huggingface_hub.HfApi:
    """A client for the current endpoint and token."""
    return huggingface_hub.HfApi(
        endpoint=constants.ENDPOINT, library_name="specgen", library_version=specgen.__version__
    )


def headers() -> dict[str, str]:
    """HTTP headers for requests made without `api`: the current token and the user agent."""
    return build_hf_headers(library_name="specgen", library_version=specgen.__version__)


def url_of(model: str, name: str, commit: str) -> str:
    """The URL of a file on the hub, which redirects to another server for large files."""
    return huggingface_hub.hf_hub_url(model, name, revision=commit, endpoint=constants.ENDPOINT)


_TRY_AGAIN = "try again: finished files are kept"

# Exception or HTTP status of the hub -> error class, message, hint. The first match wins.
_ERRORS: tuple[tuple[type[Exception] | int, type[SpecgenError], str, str], ...] = (
    (
        errors.GatedRepoError,
        AccessDenied,
        "{ref} is gated",
        "accept its terms at {page} and set HF_TOKEN to a token of that account",
    ),
    (
        errors.RevisionNotFoundError,
        ModelNotFound,
        "{ref.source} has no revision {ref.revision}",
        "see {page} for its revisions",
    ),
    (
        errors.RemoteEntryNotFoundError,
        ModelNotFound,
        "{ref}: a file that the hub lists is missing",
        "try again, or see {page}",
    ),
    (
        401,
        AccessDenied,
        "the hub refuses {ref}: it does not exist or is private, or the token is missing or wrong",
        "check the name at {page} and set HF_TOKEN",
    ),
    (
        403,
        AccessDenied,
        "the hub refuses {ref} to this token",
        "see {page} and set HF_TOKEN to a token that may read it",
    ),
    (404, ModelNotFound, "there is no model {ref.source} at {hub}, and no such path here", "check the name"),
    (429, DownloadFailed, "{hub} limits the rate of requests (429)", "wait some minutes, or set HF_TOKEN"),
)

# errno of a failed write -> message, hint.
_DISK = {
    errno.ENOSPC: (
        "the disk is full: {ref} does not fit into {cache}",
        "free some space, or set HF_HOME to another disk",
    ),
    errno.EACCES: ("cannot write to {cache}", "set HF_HOME to a folder that you can write to"),
}
_DISK |= {errno.EDQUOT: _DISK[errno.ENOSPC], errno.EPERM: _DISK[errno.EACCES], errno.EROFS: _DISK[errno.EACCES]}


def explain(error: Exception, ref: ModelRef) -> SpecgenError:
    """Convert an exception of huggingface_hub about `ref` to a SpecgenError."""
    if isinstance(error, SpecgenError):
        return error
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # huggingface_hub wraps the real error
    kind, message, hint = _reason(error)
    words = {
        "ref": ref,
        "hub": constants.ENDPOINT,
        "page": f"{constants.ENDPOINT}/{ref.source}",
        "cache": constants.HF_HUB_CACHE,
        "why": (str(error).strip() or type(error).__name__).split("\n", 1)[0],
    }
    return kind(message.format_map(words), hint=hint.format_map(words))


def _reason(error: Exception) -> tuple[type[SpecgenError], str, str]:
    match error:
        case errors.HfHubHTTPError():
            status = error.response.status_code
            for fits, kind, message, hint in _ERRORS:
                if fits == status or (isinstance(fits, type) and isinstance(error, fits)):
                    return kind, message, hint
            reason = f"{{hub}} answered {status} for {{ref}}", "try again later"
        case httpx2.UnsupportedProtocol() | httpx2.InvalidURL():
            reason = "{hub} is not a URL", "check HF_ENDPOINT"
        case httpx2.ConnectError() | httpx2.ConnectTimeout() | httpx2.ProxyError():
            reason = "cannot reach {hub} for {ref} ({why})", "check the connection and try again"
        case httpx2.TransportError():
            reason = "the download of {ref} broke off too often ({why})", _TRY_AGAIN
        case OSError() if error.errno in _DISK:
            reason = _DISK[error.errno]
        case errors.FileMetadataError() | ValueError() | KeyError() | TypeError():  # not the answer of a hub
            reason = "{hub} does not answer like a Hugging Face hub", "check HF_ENDPOINT and the proxy"
        case _:
            reason = "the download of {ref} failed ({why})", _TRY_AGAIN
    return DownloadFailed, *reason
