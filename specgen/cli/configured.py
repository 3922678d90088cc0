"""Settings on the command line: the defaults of a command's options come from specgen.config.settings."""

from collections.abc import Iterator
from typing import Any

import typer

from specgen.config import settings
from specgen.config.settings import Setting, Settings, Source
from specgen.core.errors import SpecgenError, UsageError
from specgen.core.types import AUTO, LOOKUP, NONE

# What they measure must not depend on wishes for answers: only how the pair is opened counts.
_MEASURING = ("bench", "check")
# Goes on without settings that are wrong, and says in its findings what is wrong with them.
_EXAMINING = "doctor"
_FOR_ANSWERS = settings.KEYS[settings.KEYS.index("max-tokens") :]
_NO_MODELS = (AUTO, LOOKUP, NONE)
_META = "specgen.config.settings"
_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", list: "a list of texts", str: "text"}


def configure(context: typer.Context, profile: str | None) -> str | None:
    """Make the settings the defaults of this command; a template's options, set before or after, stay above them."""
    if context.resilient_parsing:
        return profile
    try:
        _set_defaults(context, settings.resolve(profile))
    except SpecgenError:
        if context.info_name != _EXAMINING or profile is not None:
            raise
    return profile


def _set_defaults(context: typer.Context, found: Settings) -> None:
    context.meta[_META] = found
    defaults = {}
    for key, parameter in configurable(context.command.params):
        measured = context.info_name in _MEASURING and key in _FOR_ANSWERS
        # A server that was started by hand stays until it is told otherwise there.
        stays = context.info_name == "serve" and key == "keep-alive"
        if (setting := found.found.get(key)) and key != "profile" and not measured and not stays:
            defaults[parameter.name] = checked(context, parameter, setting)
    context.default_map = {**defaults, **(context.default_map or {})}


def configurable(parameters: list[Any]) -> Iterator[tuple[str, Any]]:
    """The options that settings can set, each with its key."""
    for parameter in parameters:
        names = {name.removeprefix("--") for name in parameter.opts if name.startswith("--")}
        if key := next((key for key in settings.KEYS if key in names), None):
            yield key, parameter


def checked(context: typer.Context, parameter: Any, setting: Setting) -> Any:
    """The value of `setting` as Typer takes it for a default of `parameter`.

    Raises UsageError or BadFile, as `setting` was found in the environment or a file, for one of another type, or out
    of range.
    """
    kind = _kind(parameter)
    value = _converted(setting.value, kind) if setting.source is Source.ENVIRONMENT else setting.value
    fits = isinstance(value, kind if kind is not float else (int, float)) and (kind is bool or value is not True)
    own_words = _has_parser(parameter) and isinstance(value, int) and not isinstance(value, bool)
    if not (fits or own_words) or (kind is list and not all(isinstance(each, str) for each in value)):
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


def guard(context: typer.Context) -> None:
    """Look at what settings and flags are together, once all are read. Raises UsageError."""
    found: Settings | None = context.meta.get(_META)
    if found is None:
        return
    params = context.params
    named = typed(context, "model") or typed(context, "pair")
    if found.paired and named and not typed(context, "draft") and "draft" in params:
        params["draft"] = default(context, "draft")  # the one that is set fits another target
    if not params.get("trust_remote_code"):
        return
    for key, flag in (("model", "-m"), ("draft", "-d")):
        setting = found.found.get(key)
        if setting is None or setting.source is not Source.PROJECT or setting.value in _NO_MODELS:
            continue
        if not typed(context, key) and params.get(key) == setting.value:
            raise UsageError(
                f"--trust-remote-code with the {key} that {setting.where} names",
                hint=f"say yourself whose code may run: {flag} {setting.value}",
            )


def _kind(parameter: Any) -> type:
    """bool, int, float, list, or str for all that is written as text."""
    if parameter.multiple:
        return list
    annotation = parameter.type_descriptor.annotation
    return annotation if annotation in (bool, int, float) and not _has_parser(parameter) else str


def _has_parser(parameter: Any) -> bool:
    return parameter.type_descriptor.parameter_info.parser is not None


def _converted(text: str, kind: type) -> Any:
    """What the environment says, as `kind`; the text itself where it is nothing of the kind."""
    if kind is list:
        return [text]
    if kind is bool:
        return _BOOLEANS.get(text.lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text


def typed(context: typer.Context, parameter: str) -> bool:
    """Whether the user wrote this parameter on the command line."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


def given(context: typer.Context) -> tuple[str, ...]:
    """The parameters that the command line, a template or a setting has a value for, their default included."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return tuple(name for name, source in sources.items() if source is not None and source.name != "DEFAULT")


def default(context: typer.Context, name: str) -> Any:
    """The default of a command's parameter that is written in the code."""
    return next(parameter.default for parameter in context.command.params if parameter.name == name)
