"""Settings with the options they set: listed, changed in a file, edited."""

import os
import sys
import tempfile
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import tomlkit
import typer
from tomlkit.exceptions import TOMLKitError

from specgen.cli.app import build
from specgen.cli.option_values import checked, configurable
from specgen.cli.ui import agreed, open_editor
from specgen.config import settings
from specgen.config.settings import Setting, SettingsFile, Source
from specgen.core.errors import BadFile, SpecgenError, UsageError
from specgen.core.files import replace_file
from specgen.render.terminal import is_terminal, sanitize

_COMMANDS = ("run", "chat")
_NEW = """# Settings of specgen: options of specgen run and chat by their long names; docs/configuration.md lists them.
#
# model = "stories"
# max-tokens = 200
#
# [profiles.short]
# max-tokens = 50
"""


def current_settings(profile: str | None) -> list[Setting]:
    """Every setting, checked, with its source. The value is None if neither a setting nor the code gives one."""
    found = settings.resolve(profile).found
    options = setting_options()
    rows = []
    for key in settings.KEYS:
        context, parameter = options[key]
        if setting := found.get(key):
            value = _typed_value(context, parameter, setting)
            rows.append(Setting(key, value, setting.source, setting.where, setting.profile))
        else:
            value = parameter.default
            value = value.value if isinstance(value, Enum) else value
            rows.append(Setting(key, value or None if isinstance(value, list) else value, Source.DEFAULT, ""))
    return rows


def change(key: str, values: Sequence[str] | None, *, profile: str | None, project: bool) -> Path:
    """Write the values of a setting into a file, or remove it for None. Comments and other keys stay.

    Raises UsageError for an unknown key or a wrong value, BadFile, OSError.
    """
    key = settings.canonical(key)
    path = settings_path(project)
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
            raise UsageError(f"{path} does not set {key}", hint="specgen config list shows which file does")
        del table[key]
    else:
        table[key] = _toml_value(key, values)
    new = document.as_string()
    _check_text(new, path, project, only=key)
    replace_file(path, new)
    return path


def edit(project: bool) -> tuple[Path, bool]:
    """Open a copy of the settings file in an editor and save it when it is correct.

    Returns the path and whether it changed. Raises BadFile, which names the kept copy, for a wrong file.
    """
    path = settings_path(project)
    old = path.read_text(encoding="utf-8") if path.exists() else None
    handle, name = tempfile.mkstemp(prefix="specgen-", suffix=".toml")
    copy = Path(name)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(_NEW if old is None else old)
    while True:
        open_editor(copy)
        text = copy.read_text(encoding="utf-8", errors="replace")
        if text == (_NEW if old is None else old):
            copy.unlink()
            return path, False
        try:
            _check_text(text, path, project)
        except SpecgenError as error:
            if not _edits_again(error):
                raise BadFile(error.message, hint=f"nothing was saved; your text is in {copy}") from error
            continue
        replace_file(path, text)
        copy.unlink()
        return path, True


def settings_path(project: bool) -> Path:
    """The settings file of the project or of the user, whether or not it exists."""
    if project:
        return settings.project_file() or Path.cwd() / settings.PROJECT_FILE
    return settings.user_file()


def setting_options() -> dict[str, tuple[Any, Any]]:
    """For every key a context of its command and the option."""
    group = typer.main.get_command(build())
    found: dict[str, tuple[Any, Any]] = {}
    for name in _COMMANDS:
        command = group.commands[name]  # type: ignore[attr-defined]
        context = typer.Context(command, info_name=name, resilient_parsing=True)
        for key, parameter in configurable(command.params):
            found.setdefault(key, (context, parameter))
    return found


def _check_text(text: str, path: Path, project: bool, only: str | None = None) -> None:
    """Raises BadFile if `text` is a wrong content of `path`. With `only`, checks only the values of that key."""
    file = SettingsFile.parse(text, path, Source.PROJECT if project else Source.USER)
    options = setting_options()
    for table in (file.base, *file.profiles.values()):
        for key, setting in table.items():
            if only in (None, key):
                _typed_value(*options[key], setting)


def _toml_value(key: str, words: Sequence[str]) -> Any:
    """The words of the command line as a TOML value. Raises UsageError."""
    context, parameter = setting_options()[key]
    if parameter.multiple:
        return list(words)
    if len(words) > 1:
        raise UsageError(
            f"{key} takes one value, not {len(words)}", hint=f'write "{" ".join(words)}" if it is one text'
        )
    setting = Setting(key, words[0], Source.ENVIRONMENT, f"specgen config set {key}")
    return _typed_value(context, parameter, setting)


def _typed_value(context: Any, parameter: Any, setting: Setting) -> Any:
    """The checked value as an int or float if the option is a number."""
    value = checked(context, parameter, setting)
    if isinstance(value, str) and parameter.type_descriptor.annotation in (int, float):
        number = float(value) if parameter.type_descriptor.annotation is float else value
        return number if isinstance(number, float) else int(value) if value.isdecimal() else value
    return value


def _edits_again(error: SpecgenError) -> bool:
    if not is_terminal(sys.stdin):
        return False
    typer.echo(f"specgen: {sanitize(str(error))}", err=True)
    return agreed("Edit it again?", default=True)
