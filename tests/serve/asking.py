"""Whoever asks a server of this user, as the commands do."""

from collections.abc import Iterator

from specgen.core.events import Event, Finished, Notice
from specgen.core.types import EngineOptions
from specgen.serve.background.client import BackgroundSession
from specgen.serve.background.fingerprint import Fingerprint
from tests.serve.running import LONG

OPTIONS = EngineOptions(num_draft_tokens=0)
OWN = Fingerprint("2.0", "here", 5, "the same")


def warm(keep_alive_s: float = LONG) -> BackgroundSession:
    return BackgroundSession("fake", "none", OPTIONS, keep_alive_s)


def words(events: Iterator[Event]) -> tuple[str, list[str]]:
    """The text of an answer, and the notices."""
    shown = list(events)
    assert isinstance(shown[-1], Finished), shown
    return shown[-1].text, [event.text for event in shown if isinstance(event, Notice)]
