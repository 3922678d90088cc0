"""The hub: whether models can be downloaded from it now."""

import time

import httpx2

from specgen.doctor.finding import Finding, Verdict
from specgen.hub.client import constants

_TIMEOUT_S = 5.0


def check_hub(*, offline: bool) -> Finding:
    """One small request to HF_ENDPOINT, none offline. Any answer is one, also a mirror's that lists no models."""
    hub = constants.ENDPOINT
    if offline or constants.HF_HUB_OFFLINE:
        return Finding("hub", Verdict.OK, "not asked: offline; cached models work")
    start = time.monotonic()
    try:
        response = httpx2.get(f"{hub}/api/models?limit=1", timeout=_TIMEOUT_S, follow_redirects=True)
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
        return Finding("hub", Verdict.WARN, f"{hub} is not a URL", "check HF_ENDPOINT")
    except httpx2.HTTPError as error:
        advice = "cached models work (--offline); check the connection, a proxy, HF_ENDPOINT"
        return Finding("hub", Verdict.WARN, f"cannot reach {hub} ({error or type(error).__name__})", advice)
    taken = 1000 * (time.monotonic() - start)
    if response.status_code >= 500 or response.status_code == 429:
        advice = "try again later; check HF_ENDPOINT and the proxy"
        return Finding("hub", Verdict.WARN, f"{hub} answered {response.status_code}", advice)
    return Finding("hub", Verdict.OK, f"{hub} answered in {taken:.0f} ms")
