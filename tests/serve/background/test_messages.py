"""Messages arrive over the socket unchanged."""

import json
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specgen.core import errors
from specgen.core.errors import SpecgenError, UnsupportedModel
from specgen.core.events import Event, Failed, Notice
from specgen.core.types import EngineOptions
from specgen.engine.sampling.sampler import NonFiniteLogits
from specgen.serve.api.errors import ServerEnding
from specgen.serve.background.messages import object_line, plain, read, read_event

ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SpecgenError)]


@pytest.mark.parametrize(
    "kind", [kind for kind in get_args(Event) if kind is not Failed], ids=lambda kind: kind.__name__
)
@given(data=st.data())
def test_every_event(kind: type, data: st.DataObject) -> None:
    """Events are built from their annotations, so new events and fields are covered."""
    hints = get_type_hints(kind)
    event = data.draw(st.builds(kind, **{field.name: st.from_type(hints[field.name]) for field in fields(kind)}))
    line = object_line(event)
    assert line.count(b"\n") == 1
    arrived = read_event(json.loads(line))
    assert object_line(arrived) == line
    assert arrived == event or b"NaN" in line  # which equals nothing


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error(kind: type[SpecgenError]) -> None:
    found = read_event(json.loads(object_line(Failed(kind("it went wrong", hint="try again")))))
    assert isinstance(found, Failed)
    assert type(found.error) is kind
    assert (found.error.message, found.error.hint) == ("it went wrong", "try again")


def test_a_narrower_error_keeps_its_exit_code() -> None:
    found = read_event(json.loads(object_line(Failed(NonFiniteLogits("draft", "try again", "org/m")))))
    assert isinstance(found, Failed)
    assert type(found.error) is UnsupportedModel
    assert "org/m" in found.error.message


@given(options=st.from_type(EngineOptions))
def test_options(options: EngineOptions) -> None:
    assert read(EngineOptions, json.loads(json.dumps(plain(options)))) == options


def test_an_error_that_only_the_server_knows_is_one_all_the_same() -> None:
    found = read_event(json.loads(object_line(Failed(ServerEnding()))))
    assert isinstance(found, Failed)
    assert (type(found.error), str(found.error)) == (SpecgenError, str(ServerEnding()))


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"type": "Nothing"},
        {"type": "Notice"},
        {"type": "Notice", "text": 1},
        {"type": "Notice", "text": "x", "more": 1},
        {"type": "Step", "tokens": [1.5], "spans": []},
        {"type": "Step", "tokens": 1, "spans": []},
        {"type": "Step", "tokens": [], "spans": [{"text": "x", "source": "elsewhere"}]},
        {"type": "Finished", "reason": "end", "text": "x", "stats": {"by_source": {"draft": [1]}}},
    ],
)
def test_what_is_no_event_is_refused(wrong: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        read_event(dict(wrong))


def test_any_text_arrives() -> None:
    notice = Notice("é\u2028\n\udc80\x1b")
    assert object_line(notice).isascii()
    assert read_event(json.loads(object_line(notice))) == notice
