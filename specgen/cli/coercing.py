"""Values of options read without pydantic, which Typer would import for each of them: 0.1 s before anything happens."""

import contextlib
import re
from typing import Any

_NUMBER = {int: re.compile("[0-9]{1,18}"), float: re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")}


class _NotPlain(Exception):
    pass


class Coercion:
    """What `parameter` makes of the words that were written; Typer's own way for all that is not plain.

    It stands in for the method of a parameter that makes such a thing.
    """

    def __init__(self, parameter: Any) -> None:
        self._kind = parameter.type_descriptor.annotation
        self._info = parameter.type_descriptor.parameter_info
        self._many = parameter.multiple or parameter.nargs == -1
        self._typers = type(parameter).get_runtime_param

    def __call__(self) -> "Coercion":
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value, checked. Raises Typer's BadParameter, and what a parser of ours raises."""
        if value is None or (self._many and not value):
            return () if self._many else None
        if self._many and self._kind == list[str] and isinstance(value, list | tuple):
            return list(value)
        if not self._many and isinstance(self._kind, type):
            with contextlib.suppress(_NotPlain, ValueError):
                return self._plain(value)
        return self._typers(param).coerce(value, param=param, ctx=ctx)

    def _plain(self, value: Any) -> Any:
        if self._info.parser is not None and isinstance(value, str):
            return self._info.parser(value)
        if self._info.parser is None and type(value) is self._kind:
            return value
        if self._kind in (int, float) and isinstance(value, str) and _NUMBER[self._kind].fullmatch(value):
            number = self._kind(value)
            if (self._info.min is None or self._info.min <= number) and (
                self._info.max is None or number <= self._info.max
            ):
                return number
        raise _NotPlain


def read_plainly(parameters: list[Any]) -> None:
    """Let the options and arguments of a command be read so."""
    for parameter in parameters:
        parameter.get_runtime_param = Coercion(parameter)
