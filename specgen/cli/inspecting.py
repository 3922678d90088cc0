"""The settings beside the options they set: what each is now, and changing one in a file."""

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import tomlkit
import typer
from tomlkit.exceptions import TOMLKitError

from specgen.cli.app import build
from specgen.cli.configured import checked, configurable
from specgen.config import settings
from specgen.config.settings import Setting, SettingsFile, Source
from specgen.core.errors import BadFile, UsageError
from specgen.core.files import replace_file

_COMMANDS = ("run", "chat")


def inspected(profile: str | None) -> list[Setting]:
    """Every setting as it is now, checked, the defaults too; a default that nobody wrote down is None."""
    found = settings.resolve(profile).found
    options = _options()
    rows = []
    for key in settings.KEYS:
        context, parameter = options[key]
        if setting := found.get(key):
            value = _checked(context, parameter, setting)
            rows.append(Setting(key, value, setting.source, setting.where, setting.profile))
        else:
            value = parameter.default
            value = value.value if isinstance(value, Enum) else value
            rows.append(Setting(key, value or None if isinstance(value, list) else value, Source.DEFAULT, ""))
    return rows


def change(key: str, values: Sequence[str] | None, *, profile: str | None, project: bool) -> Path:
    """Write `values` for a setting into a file, or take it out for None; the rest of the file stays as it is.

    Raises UsageError for an unknown key or a value that does not do, BadFile, OSError.
    """
    key = settings.canonical(key)
    path = place(project)
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        document = tomlkit.parse(text)
    except (OSError, UnicodeDecodeError, TOMLKitError) as error:
        raise BadFile(f"cannot read {path}: {error}", hint="correct it: specgen config edit") from error
    table: Any = document
    if profile is not None:
        profiles = document.setdefault("profiles", tomlkit.table(is_super_table=True))
        table = profiles.setdefault(profile, tomlkit.table())
    if values is None:
        if key not in table:
            raise UsageError(f"{path} does not set {key}", hint="specgen config list says what does")
        del table[key]
    else:
        table[key] = _value(key, values)
    new = document.as_string()
    check_text(new, path, project, only=key)
    replace_file(path, new)
    return path


def place(project: bool) -> Path:
    """The file that is meant, whether or not it exists."""
    if project:
        return settings.project_file() or Path.cwd() / settings.PROJECT_FILE
    return settings.user_file()


def check_text(text: str, path: Path, project: bool, only: str | None = None) -> None:
    """Raise BadFile where `text` would be wrong in `path`; `only` looks at the values of that key alone."""
    file = SettingsFile.parse(text, path, Source.PROJECT if project else Source.USER)
    options = _options()
    for table in (file.base, *file.profiles.values()):
        for key, setting in table.items():
            if only in (None, key):
                _checked(*options[key], setting)


def _value(key: str, words: Sequence[str]) -> Any:
    """The words of the command line as a TOML value. Raises UsageError."""
    context, parameter = _options()[key]
    if parameter.multiple:
        return list(words)
    if len(words) > 1:
        raise UsageError(
            f"{key} takes one value, not {len(words)}", hint=f'write "{" ".join(words)}" if it is one text'
        )
    setting = Setting(key, words[0], Source.ENVIRONMENT, f"specgen config set {key}")
    return _checked(context, parameter, setting)


def _checked(context: Any, parameter: Any, setting: Setting) -> Any:
    """The value in its own type: what TOML has, or the text of the environment as the option's type."""
    value = checked(context, parameter, setting)
    if isinstance(value, str) and parameter.type_descriptor.annotation in (int, float):
        number = float(value) if parameter.type_descriptor.annotation is float else value
        return number if isinstance(number, float) else int(value) if value.isdecimal() else value
    return value


def _options() -> dict[str, tuple[Any, Any]]:
    """The option of every key, with a context of its command."""
    group = typer.main.get_command(build())
    found: dict[str, tuple[Any, Any]] = {}
    for name in _COMMANDS:
        command = group.commands[name]  # type: ignore[attr-defined]
        context = typer.Context(command, info_name=name, resilient_parsing=True)
        for key, parameter in configurable(command.params):
            found.setdefault(key, (context, parameter))
    return found
