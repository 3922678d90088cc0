"""What a caller may take: sizes, counts and times of a request. Written down once, and smaller in tests."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
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
