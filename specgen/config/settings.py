"""Settings from the environment, the project's file and the user's file.

Keys are the long names of the options of `specgen run` and `chat`. The options define types and ranges; the caller
of `resolve` checks the values against them.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from specgen.core.errors import BadFile, SpecgenError, UsageError
from specgen.core.files import config_folder, read_text
from specgen.core.words import did_you_mean, nearest, reason

KEYS = (
    "model",
    "draft",
    "num-draft-tokens",
    "no-lookup",
    "device",
    "dtype",
    "quant",
    "threads",
    "ctx-size",
    "offline",
    "compile",
    "verbose",
    "keep-alive",
    "max-tokens",
    "temp",
    "top-k",
    "top-p",
    "min-p",
    "repetition-penalty",
    "presence-penalty",
    "frequency-penalty",
    "seed",
    "stop",
    "system",
    "raw",
    "color",
    "color-source",
    "quiet",
    "stats",
    "think",
    "hide-thinking",
    "no-markdown",
    "no-log",
    "profile",
)
# Other long names of options.
OTHER_NAMES = {
    "draft-model": "draft",
    "temperature": "temp",
    "repeat-penalty": "repetition-penalty",
}
# Somebody else may have written the project's file. It cannot undo the user's --offline, nor choose a profile. Options
# that run code or write files (--trust-remote-code, --trace) are not settings.
USERS_ALONE = ("offline", "profile")
PROJECT_FILE = "specgen.toml"
PREFIX = "SPECGEN_"
_PROFILES = "profiles"
_LARGEST = 1 << 20  # bytes of a settings file
_PATHS = ("model", "draft")
_NEAR = 0.8  # a less similar variable belongs to another program


class Source(StrEnum):
    ENVIRONMENT = "environment"
    PROJECT = "project"
    USER = "user"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Setting:
    """A value and its origin. `where` names the variable, or the file and the line.

    Values of the environment are text, values of a file have TOML types.
    """

    key: str
    value: Any
    source: Source
    where: str
    profile: str | None = None

    def refuse(self, reason: str, hint: str) -> SpecgenError:
        """The error for an invalid value."""
        if self.source is Source.ENVIRONMENT:
            return UsageError(f"{self.where}: {reason}", hint=hint)
        return BadFile(f"{self.where}: {reason}", hint=hint)


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """The settings of a file, and those of its profiles."""

    path: Path
    base: Mapping[str, Setting]
    profiles: Mapping[str, Mapping[str, Setting]]

    @classmethod
    def read(cls, path: Path, source: Source) -> "SettingsFile":
        """Read `path`; a missing file is empty. Raises BadFile for invalid TOML and for unknown keys."""
        try:
            text = read_text(path, _LARGEST)
        except FileNotFoundError:
            return cls(path, {}, {})
        except (OSError, UnicodeDecodeError) as error:
            raise BadFile(f"cannot read {path}: {reason(error)}", hint="check the file and its permissions") from error
        return cls.parse(text, path, source)

    @classmethod
    def parse(cls, text: str, path: Path, source: Source) -> "SettingsFile":
        """The settings of `text`, the present or future content of `path`. Raises BadFile."""
        import tomli  # noqa: PLC0415 - --help needs no settings

        try:
            tables = tomli.loads(text)
        except tomli.TOMLDecodeError as error:
            edit = "specgen config edit" + (" --project" if source is Source.PROJECT else "")
            raise BadFile(f"{path} is not TOML: {error}", hint=f"correct it: {edit}") from error
        profiles = tables.pop(_PROFILES, {})
        if not isinstance(profiles, dict) or not all(isinstance(each, dict) for each in profiles.values()):
            raise BadFile(
                f"{path}: '{_PROFILES}' must contain tables", hint="write [profiles.NAME] above the settings of each"
            )
        return cls(
            path,
            dict(_settings(tables, text, path, source, None)),
            {name: dict(_settings(table, text, path, source, name)) for name, table in profiles.items()},
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings in effect, by key. `paired`: the draft was set together with a model, and fits only that one."""

    found: Mapping[str, Setting]
    paired: bool = False


def resolve(profile: str | None = None) -> Settings:
    """The settings in effect. Precedence: environment, profile (project's, then user's), project file, user file.

    A draft that was set together with a model is dropped if another model is in effect. Raises UsageError for an
    unknown profile or variable, BadFile for an invalid file.
    """
    user = SettingsFile.read(user_file(), Source.USER)
    place = project_file()
    files = [user] if place is None else [user, SettingsFile.read(place, Source.PROJECT)]
    layers = [each.base for each in files]
    environment = dict(_environment())
    if profile is None and (setting := environment.get("profile") or user.base.get("profile")):
        profile = str(setting.value)
    if profile is not None:
        names = [name for each in files for name in each.profiles]
        if profile not in names:
            hint = did_you_mean(profile, names, f"add a table [{_PROFILES}.{profile}]: specgen config edit")
            raise UsageError(f"there is no profile '{profile}'", hint=hint)
        layers += [each.profiles.get(profile, {}) for each in files]
    layers.append(environment)
    found = {key: setting for layer in layers for key, setting in layer.items()}
    beside = next((layer.get("model") for layer in layers if layer.get("draft") is found.get("draft", ...)), None)
    if beside is not None and beside is not found["model"]:
        del found["draft"]
    return Settings(found, paired="draft" in found and beside is not None)


def profile_names() -> tuple[str, ...]:
    """The profiles of both files. An unreadable file counts as empty."""
    names: dict[str, None] = {}
    for path, source in ((user_file(), Source.USER), (project_file(), Source.PROJECT)):
        try:
            names |= dict.fromkeys(SettingsFile.read(path, source).profiles if path else ())
        except SpecgenError:
            continue
    return tuple(names)


def user_file() -> Path:
    """The path of the user's settings, present or not."""
    return config_folder() / "config.toml"


def project_file() -> Path | None:
    """The specgen.toml of this folder, or of the nearest folder above that has one."""
    try:
        here = Path.cwd()
    except OSError:  # the folder was removed
        return None
    places = (each / PROJECT_FILE for each in (here, *here.parents))
    return next((path for path in places if os.path.isfile(path)), None)  # noqa: PTH113 - Path's raises for closed folders


def canonical(name: str) -> str:
    """The key that `name` means. Raises UsageError, with the nearest key, for an unknown name."""
    key = OTHER_NAMES.get(name, name)
    if key not in KEYS:
        raise UsageError(f"there is no setting '{name}'", hint=_nearest_key(name))
    return key


def variable(key: str) -> str:
    """The environment variable for `key`."""
    return PREFIX + key.upper().replace("-", "_")


def _nearest_key(name: str) -> str:
    return did_you_mean(name, (*KEYS, *OTHER_NAMES), "specgen config list shows all settings")


def _settings(
    table: Mapping[str, Any], text: str, path: Path, source: Source, profile: str | None
) -> Iterator[tuple[str, Setting]]:
    for name, value in table.items():
        line = _line(text, name, profile)
        setting = Setting(name, value, source, f"{path}, line {line}" if line else str(path), profile)
        if name in ("trust-remote-code", "trace"):
            raise setting.refuse(f"'{name}' is not a setting", f"give --{name} with the command that needs it")
        try:
            key = canonical(name)
        except UsageError as error:
            raise setting.refuse(error.message, error.hint) from error
        if profile is not None and key == "profile":
            raise setting.refuse("a profile cannot choose a profile", "remove the line")
        if source is Source.PROJECT and key in USERS_ALONE:
            raise setting.refuse(
                f"a project's file cannot set '{key}'", f"remove it, or set it for yourself: specgen config set {key}"
            )
        if key in _PATHS and isinstance(value, str) and value.startswith("."):
            value = str(path.parent / value)  # noqa: PLW2901 - relative to where it is written
        yield key, replace(setting, key=key, value=value)


def _environment() -> Iterator[tuple[str, Setting]]:
    known = {variable(key): key for key in KEYS} | {variable(name): key for name, key in OTHER_NAMES.items()}
    for name, value in os.environ.items():
        if not name.startswith(PREFIX) or not value:
            continue
        if key := known.get(name):
            yield key, Setting(key, value, Source.ENVIRONMENT, name)
        elif near := nearest(name.removeprefix(PREFIX), [each.removeprefix(PREFIX) for each in known], _NEAR):
            raise UsageError(f"there is no variable {name}", hint=f"did you mean '{PREFIX}{near}'?")


def _line(text: str, key: str, profile: str | None) -> int | None:
    """The line that sets `key` in this table, from 1; None for another form of TOML."""
    wanted = "" if profile is None else f"{_PROFILES}.{profile}"
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([^\[\]]+)\]", line):
            table = re.sub(r"[\s\"']", "", header[1])
        elif table == wanted and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
    return None
