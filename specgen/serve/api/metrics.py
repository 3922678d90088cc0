"""Prometheus metrics of a server."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

from specgen.core.events import Event, Finished, Started, Step

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)

__all__ = ["CONTENT_TYPE", "Metrics"]


class Metrics:
    """The metrics of one server, in their own registry."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "specgen_requests", "Requests answered, by endpoint and status.", ["endpoint", "status"], registry=registry
        )
        self._prompt = Counter("specgen_prompt_tokens", "Tokens of prompts.", registry=registry)
        self._generated = Counter("specgen_generated_tokens", "Tokens generated.", registry=registry)
        self._drafted = Counter("specgen_drafted_tokens", "Tokens drafted.", registry=registry)
        self._accepted = Counter("specgen_accepted_tokens", "Drafted tokens accepted.", registry=registry)
        self._waited = self._histogram("specgen_queue_seconds", "Time that a request waited for its turn.")
        self._first = self._histogram("specgen_first_token_seconds", "Time from a request's turn to its first token.")
        self._whole = self._histogram("specgen_answer_seconds", "Time from a request's turn to the end of its answer.")

    def watch(self, waiting: Callable[[], float], running: Callable[[], float]) -> None:
        """Export two gauges, which are computed at each scrape."""
        Gauge("specgen_queue_length", "Requests that wait.", registry=self._registry).set_function(waiting)
        Gauge("specgen_running", "Requests being answered.", registry=self._registry).set_function(running)

    def answered(self, endpoint: str, status: int) -> None:
        self._requests.labels(endpoint, str(status)).inc()

    def waited(self, seconds: float) -> None:
        self._waited.observe(seconds)

    def saw(self, event: Event, seconds: float) -> None:
        """Count an event of an answer, `seconds` after its turn came."""
        match event:
            case Started():
                self._prompt.inc(event.prompt_tokens)
            case Step():
                self._generated.inc(len(event.tokens))
                self._drafted.inc(event.drafted)
                self._accepted.inc(event.accepted)
            case Finished():
                self._first.observe(event.stats.time_to_first_token_s)
                self._whole.observe(seconds)
            case _:
                pass

    def text(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self._registry)

    def _histogram(self, name: str, about: str) -> Histogram:
        return Histogram(name, about, buckets=_SECONDS, registry=self._registry)
