"""Events, questions and errors as lines of JSON and back, by the fields and types of their own classes."""

import collections.abc
import dataclasses
import functools
import inspect
import json
import types
from collections.abc import Callable
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from specgen.core import errors
from specgen.core.errors import SpecgenError
from specgen.core.events import Event, Failed, Finished, Notice, Progress, Started, Step

KIND = "type"
# Lines that are no events: everything has been said; whoever speaks cannot go on.
END = "End"
GONE = "Gone"
_EVENTS = {kind.__name__: kind for kind in (Progress, Notice, Started, Step, Finished, Failed)}
_ERRORS = {name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, SpecgenError)}

Read = Callable[[Any], Any]


def object_line(what: Any) -> bytes:
    """An event, or another dataclass, as one line of JSON, its newline included."""
    return line({KIND: type(what).__name__, **plain(what)})


def read_event(data: Any) -> Event:
    """The event that parsed JSON of such a line has. Raises KeyError, TypeError or ValueError for anything else."""
    event: Event = read_line(_EVENTS[data[KIND]], data)
    return event


def read_line(kind: Any, data: Any) -> Any:
    """What parsed JSON of such a line has, of a type that is known. Raises as read_event."""
    return read(kind, {name: value for name, value in data.items() if name != KIND})


def line(data: Any) -> bytes:
    """Plain data as one line of JSON; also a text that has no UTF-8 arrives as it is."""
    return json.dumps(data, separators=(",", ":")).encode("ascii") + b"\n"


def plain(value: Any) -> Any:
    """`value` as what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field: plain(getattr(value, field)) for field in _fields(type(value))}
    if isinstance(value, SpecgenError):
        return {"error": type(value).__name__, "message": value.message, "hint": value.hint}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, collections.abc.Mapping):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, tuple) else value


def read(kind: Any, data: Any) -> Any:
    """What `plain` made of a value of the type `kind`. Raises KeyError, TypeError or ValueError for anything else."""
    return _reader(kind)(data)


@functools.cache
def _fields(kind: type) -> dict[str, Any]:
    """The type of every field."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@functools.cache
def _reader(kind: Any) -> Read:
    """What reads a type. Types are written as annotations, of which these are all that occur."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (some,) = (_reader(each) for each in arguments if each is not types.NoneType)
        return lambda data: None if data is None else some(data)
    if origin is Literal:
        return functools.partial(_one_of, arguments)
    if origin is tuple:  # of one type, and any length
        each = _reader(arguments[0])
        return lambda data: tuple(map(each, data))
    if origin is collections.abc.Mapping:
        key, value = map(_reader, arguments)
        return lambda data: {key(name): value(data[name]) for name in data}
    if not isinstance(kind, type):
        raise TypeError(f"no JSON is read as {kind}")
    return _class_reader(kind)


def _class_reader(kind: type) -> Read:
    if dataclasses.is_dataclass(kind):
        readers = {name: _reader(each) for name, each in _fields(kind).items()}
        return lambda data: kind(**{name: readers[name](data[name]) for name in data})
    if issubclass(kind, SpecgenError):
        return lambda data: _ERRORS.get(data["error"], SpecgenError)(data["message"], hint=data["hint"])
    if issubclass(kind, Enum):
        return kind
    if issubclass(kind, tuple):  # a NamedTuple
        named = [_reader(each) for each in get_type_hints(kind).values()]
        return lambda data: kind(*(reader(each) for reader, each in zip(named, data, strict=True)))
    if kind not in (str, int, float, bool):
        raise TypeError(f"no JSON is read as {kind}")
    return functools.partial(_exactly, (int, float) if kind is float else (kind,))


def _one_of(values: tuple[Any, ...], data: Any) -> Any:
    if data not in values:
        raise ValueError(f"{data!r} is none of {values}")
    return data


def _exactly(kinds: tuple[type, ...], data: Any) -> Any:
    if type(data) not in kinds:
        raise TypeError(f"{data!r} is no {kinds[0].__name__}")
    return data
