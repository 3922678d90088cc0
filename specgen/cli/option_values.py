"""Option values: defaults from settings, plain values without pydantic, and their checks."""

import contextlib
import math
import re
from collections.abc import Iterator
from typing import Any

import typer

from specgen.config import settings
from specgen.config.settings import Setting, Settings, Source
from specgen.core.errors import SpecgenError, UsageError
from specgen.core.types import AUTO, LOOKUP, NONE, SAMPLING_RANGES, check_sampling

# A measurement must not depend on settings for answers. Only settings that open the pair apply.
_MEASURING = ("bench", "check")
# `doctor` reports wrong settings as findings, so it continues without them.
_EXAMINING = "doctor"
_FOR_ANSWERS = settings.KEYS[settings.KEYS.index("max-tokens") :]
_NO_MODELS = (AUTO, LOOKUP, NONE)
_META = "specgen.config.settings"
_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", list: "a list of texts", str: "text"}
_NUMBER = {int: re.compile("[0-9]{1,18}"), float: re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")}


def configure(context: typer.Context, profile: str | None) -> str | None:
    """Callback of --profile: settings become the defaults of this command. Options of a template take precedence."""
    if context.resilient_parsing:
        return profile
    try:
        found = settings.resolve(profile)
        context.meta[_META] = found
        context.default_map = {**_defaults_from_settings(context, found), **(context.default_map or {})}
    except SpecgenError:
        if context.info_name != _EXAMINING or profile is not None:
            raise
    return profile


def _defaults_from_settings(context: typer.Context, found: Settings) -> dict[str, Any]:
    defaults = {}
    for key, parameter in configurable(context.command.params):
        ignored = context.info_name in _MEASURING and key in _FOR_ANSWERS
        # The setting is for background processes. A server that a user starts stays until it is stopped.
        ignored |= context.info_name == "serve" and key == "keep-alive"
        if (setting := found.found.get(key)) and key != "profile" and not ignored:
            defaults[parameter.name] = checked(context, parameter, setting)
    return defaults


def configurable(parameters: list[Any]) -> Iterator[tuple[str, Any]]:
    """The options that a setting can set, as (key, parameter)."""
    for parameter in parameters:
        names = {name.removeprefix("--") for name in parameter.opts if name.startswith("--")}
        if key := next((key for key in settings.KEYS if key in names), None):
            yield key, parameter


def checked(context: typer.Context, parameter: Any, setting: Setting) -> Any:
    """The value of `setting` as a default of `parameter`.

    Raises UsageError (environment) or BadFile (file) for a value of another type or out of range.
    """
    kind = _kind(parameter)
    value = _converted(setting.value, kind) if setting.source is Source.ENVIRONMENT else setting.value
    fits = isinstance(value, kind if kind is not float else (int, float)) and (kind is bool or value is not True)
    # A parser reads text: `num-draft-tokens = 4` may be written without quotes.
    parsed = _has_parser(parameter) and isinstance(value, int) and not isinstance(value, bool)
    if not (fits or parsed) or (kind is list and not all(isinstance(each, str) for each in value)):
        raise setting.refuse(f"'{setting.key}' is {value!r}", f"write {_NAMES[kind]}")
    text = value if isinstance(value, bool | list) else str(value)
    try:
        parameter.process_value(context, text)
    except Exception as error:
        if isinstance(error, UsageError):
            raise setting.refuse(error.message, error.hint) from error
        if not hasattr(error, "format_message"):
            raise
        reason = " ".join(str(getattr(error, "message", error)).split())
        reason = reason.removeprefix("Value error, ").rstrip(".")
        raise setting.refuse(f"'{setting.key}' is {value!r}", reason) from error
    return text


def check_together(context: typer.Context) -> None:
    """Check settings and flags in combination, once all are read. Raises UsageError."""
    found: Settings | None = context.meta.get(_META)
    if found is None:
        return
    params = context.params
    named = typed(context, "model") or typed(context, "pair")
    if found.paired and named and not typed(context, "draft") and "draft" in params:
        params["draft"] = default(context, "draft")  # the draft of the settings belongs to another target
    if not params.get("trust_remote_code"):
        return
    for key, flag in (("model", "-m"), ("draft", "-d")):
        setting = found.found.get(key)
        if setting is None or setting.source is not Source.PROJECT or setting.value in _NO_MODELS:
            continue
        if not typed(context, key) and params.get(key) == setting.value:
            raise UsageError(
                f"--trust-remote-code with the {key} that {setting.where} names",
                hint=f"name the model whose code may run: {flag} {setting.value}",
            )


def typed(context: typer.Context, parameter: str) -> bool:
    """Whether the user wrote this parameter on the command line."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


def default(context: typer.Context, name: str) -> Any:
    """The default of a command's parameter in the code."""
    return next(parameter.default for parameter in context.command.params if parameter.name == name)


def _kind(parameter: Any) -> type:
    """bool, int, float, list, or str for a value that is written as text."""
    if parameter.multiple:
        return list
    annotation = parameter.type_descriptor.annotation
    return annotation if annotation in (bool, int, float) and not _has_parser(parameter) else str


def _has_parser(parameter: Any) -> bool:
    return parameter.type_descriptor.parameter_info.parser is not None


def _converted(text: str, kind: type) -> Any:
    """A value of the environment as `kind`; the text itself if it cannot be converted."""
    if kind is list:
        return [text]
    if kind is bool:
        return _BOOLEANS.get(text.lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text


class ValueReader:
    """Reads the value of `parameter`. Typer's own reader imports pydantic (0.1 s), so it handles only the rest.

    Replaces the method `get_runtime_param` of the parameter.
    """

    def __init__(self, parameter: Any) -> None:
        self._kind = parameter.type_descriptor.annotation
        self._info = parameter.type_descriptor.parameter_info
        self._many = parameter.multiple or parameter.nargs == -1
        self._typers = type(parameter).get_runtime_param

    def __call__(self) -> "ValueReader":
        return self

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The checked value. Raises Typer's BadParameter, and UsageError."""
        read = self._read(value, param, ctx)
        if param.name in SAMPLING_RANGES and read is not None:
            check_sampling(param.name, read)
        return read

    def _read(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None or (self._many and not value):
            return () if self._many else None
        if self._many and self._kind == list[str] and isinstance(value, list | tuple):
            return list(value)
        if not self._many and isinstance(self._kind, type):
            with contextlib.suppress(ValueError):
                return self._plain(value)
        read = self._typers(param).coerce(value, param=param, ctx=ctx)
        if isinstance(read, float) and not math.isfinite(read):
            flag = next(name for name in param.opts if name.startswith("--"))
            raise UsageError(f"{flag} is '{value}'", hint="give a finite number")
        return read

    def _plain(self, value: Any) -> Any:
        """The value of a parser, of the right type already, or of plain digits in range. Raises ValueError."""
        if self._info.parser is not None and isinstance(value, str):
            return self._info.parser(value)
        if self._info.parser is None and type(value) is self._kind:
            return value
        if self._kind in (int, float) and isinstance(value, str) and _NUMBER[self._kind].fullmatch(value):
            number = self._kind(value)
            low, high = self._info.min, self._info.max
            if (low is None or low <= number) and (high is None or number <= high):
                return number
        raise ValueError


def read_plainly(parameters: list[Any]) -> None:
    """Use ValueReader for the options and arguments of a command."""
    for parameter in parameters:
        parameter.get_runtime_param = ValueReader(parameter)
