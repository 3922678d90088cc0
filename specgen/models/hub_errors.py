"""What went wrong on the hub, in one line that says what to do next."""

import errno

import httpx2
from huggingface_hub import constants, errors

from specgen.core.errors import AccessDenied, DownloadFailed, ModelNotFound, SpecgenError
from specgen.core.types import ModelRef

_TRY_AGAIN = "try again: finished files are kept"

# What the hub answered, by exception or by status: the error, what to say, what to do. The first that fits counts.
_ANSWERS: tuple[tuple[type[Exception] | int, type[SpecgenError], str, str], ...] = (
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
        "{ref}: a file that the hub lists is not there",
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
    (429, DownloadFailed, "{hub} limits how often it is asked (429)", "wait some minutes, or set HF_TOKEN"),
)

# What kept a file from being written.
_DISK = {
    errno.ENOSPC: (
        "the disk is full: {ref} does not fit into {cache}",
        "free some space, or set HF_HOME to another disk",
    ),
    errno.EACCES: ("cannot write to {cache}", "set HF_HOME to a folder that you can write to"),
}
_DISK |= {errno.EDQUOT: _DISK[errno.ENOSPC], errno.EPERM: _DISK[errno.EACCES], errno.EROFS: _DISK[errno.EACCES]}


def explain(error: Exception, ref: ModelRef) -> SpecgenError:
    """The SpecgenError for what huggingface_hub raised while it looked for or downloaded `ref`."""
    if isinstance(error, SpecgenError):
        return error
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # huggingface_hub's wrapper around the reason
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
            for fits, kind, message, hint in _ANSWERS:
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
        case errors.FileMetadataError() | ValueError() | KeyError() | TypeError():  # an answer that no hub gives
            reason = "{hub} does not answer like a Hugging Face hub", "check HF_ENDPOINT and the proxy"
        case _:
            reason = "the download of {ref} failed ({why})", _TRY_AGAIN
    return DownloadFailed, *reason
