"""Values of options read without pydantic, which Typer would import for each of them: 0.1 s before anything happens."""

import contextlib
from typing import Any


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
        if self._kind is int and isinstance(value, str) and self._is_in_range(value):
            return int(value)
        raise _NotPlain

    def _is_in_range(self, text: str) -> bool:
        least, most = self._info.min, self._info.max
        return (
            text.isascii()
            and text.isdecimal()
            and (least is None or least <= int(text))
            and (most is None or int(text) <= most)
        )


def read_plainly(parameters: list[Any]) -> None:
    """Let the options and arguments of a command be read so."""
    for parameter in parameters:
        parameter.get_runtime_param = Coercion(parameter)
