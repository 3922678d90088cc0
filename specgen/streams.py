"""Streams of events, and what is made of one on its way to whoever reads it."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace

from specgen.core import Message
from specgen.errors import SpecgenError
from specgen.events import Event, Failed, Started


def with_messages(event: Event, messages: Sequence[Message], *, raw: bool) -> Event:
    """`event`; if it is `Started`, with the messages that are answered."""
    return replace(event, messages=tuple(messages), raw=raw) if isinstance(event, Started) else event


def failing(events: Iterator[Event]) -> Generator[Event, None, None]:
    """`events`, with a failure that a user can cause as the last event."""
    try:
        yield from events
    except SpecgenError as error:
        yield Failed(error)
