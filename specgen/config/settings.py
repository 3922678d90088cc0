"""Settings: what the command line leaves open, from the environment, the project's file and the user's own.

Keys are named as the options of `specgen run` and `chat`. Their types and ranges are the options' business: whoever
resolves settings checks the values against them, so that nothing is written down twice.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from specgen.core.errors import BadFile, SpecgenError, UsageError
from specgen.core.files import config_folder
from specgen.core.words import did_you_mean, nearest

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
# Options have these long names too.
OTHER_NAMES = {
    "draft-model": "draft",
    "temperature": "temp",
    "repeat-penalty": "repetition-penalty",
}
# Somebody else may have written the project's file: it cannot lift the user's --offline, nor choose among profiles that
# were made for other models. What runs code or writes files (--trust-remote-code, --trace) is no setting at all.
USERS_ALONE = ("offline", "profile")
PROJECT_FILE = "specgen.toml"
PREFIX = "SPECGEN_"
_PROFILES = "profiles"
_PATHS = ("model", "draft")
_NEAR = 0.8  # a variable of the environment that is less like a key is somebody else's


class Source(StrEnum):
    ENVIRONMENT = "environment"
    PROJECT = "project"
    USER = "user"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Setting:
    """A value, and where it was found; `where` names the variable, or the file and the line.

    What comes from the environment is text, what comes from a file is what TOML makes of it.
    """

    key: str
    value: Any
    source: Source
    where: str
    profile: str | None = None

    def refuse(self, reason: str, hint: str) -> SpecgenError:
        """The error that says that the value does not do."""
        if self.source is Source.ENVIRONMENT:
            return UsageError(f"{self.where}: {reason}", hint=hint)
        return BadFile(f"{self.where}: {reason}", hint=hint)


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """What a file says: its own settings, and those of its profiles."""

    path: Path
    base: Mapping[str, Setting]
    profiles: Mapping[str, Mapping[str, Setting]]

    @classmethod
    def read(cls, path: Path, source: Source) -> "SettingsFile":
        """Read `path`; empty where there is no such file. Raises BadFile for what is no TOML, or has unknown keys."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return cls(path, {}, {})
        except (OSError, UnicodeDecodeError) as error:
            raise BadFile(f"cannot read {path}: {error}", hint="check the file and its permissions") from error
        return cls.parse(text, path, source)

    @classmethod
    def parse(cls, text: str, path: Path, source: Source) -> "SettingsFile":
        """The same of a text that is or will be the content of `path`."""
        import tomli  # noqa: PLC0415 - --help needs no settings

        try:
            tables = tomli.loads(text)
        except tomli.TOMLDecodeError as error:
            edit = "specgen config edit" + (" --project" if source is Source.PROJECT else "")
            raise BadFile(f"{path} is not TOML: {error}", hint=f"correct it: {edit}") from error
        profiles = tables.pop(_PROFILES, {})
        if not isinstance(profiles, dict) or not all(isinstance(each, dict) for each in profiles.values()):
            raise BadFile(
                f"{path}: '{_PROFILES}' holds tables", hint="write [profiles.NAME] above the settings of each"
            )
        return cls(
            path,
            dict(_settings(tables, text, path, source, None)),
            {name: dict(_settings(table, text, path, source, name)) for name, table in profiles.items()},
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting that somebody made, by its key.

    `paired` says that the draft stands beside a model, and so is of no use to another one.
    """

    found: Mapping[str, Setting]
    paired: bool = False


def resolve(profile: str | None = None) -> Settings:
    """Environment over project file over user file; the profile of either file over the rest of both.

    A draft that was set beside a model falls with it. Raises UsageError for an unknown profile or variable, BadFile for
    what a file has wrong.
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
    """The profiles of both files; none of a file that cannot be read."""
    names: dict[str, None] = {}
    for path, source in ((user_file(), Source.USER), (project_file(), Source.PROJECT)):
        try:
            names |= dict.fromkeys(SettingsFile.read(path, source).profiles if path else ())
        except SpecgenError:
            continue
    return tuple(names)


def user_file() -> Path:
    """The user's own settings, whether or not the file exists."""
    return config_folder() / "config.toml"


def project_file() -> Path | None:
    """The specgen.toml of this folder or the nearest above it that has one."""
    try:
        here = Path.cwd()
    except OSError:  # the folder is gone
        return None
    places = (each / PROJECT_FILE for each in (here, *here.parents))
    return next((path for path in places if os.path.isfile(path)), None)  # noqa: PTH113 - Path's raises for closed folders


def canonical(name: str) -> str:
    """The key that `name` means. Raises UsageError with the nearest one for an unknown name."""
    key = OTHER_NAMES.get(name, name)
    if key not in KEYS:
        raise UsageError(f"there is no setting '{name}'", hint=_nearest_key(name))
    return key


def variable(key: str) -> str:
    """The variable of the environment for `key`."""
    return PREFIX + key.upper().replace("-", "_")


def _nearest_key(name: str) -> str:
    return did_you_mean(name, (*KEYS, *OTHER_NAMES), "specgen config list shows those there are")


def _settings(
    table: Mapping[str, Any], text: str, path: Path, source: Source, profile: str | None
) -> Iterator[tuple[str, Setting]]:
    for name, value in table.items():
        line = _line(text, name, profile)
        setting = Setting(name, value, source, f"{path}, line {line}" if line else str(path), profile)
        if name in ("trust-remote-code", "trace"):
            raise setting.refuse(f"'{name}' is no setting", f"give --{name} with the command that needs it")
        try:
            key = canonical(name)
        except UsageError as error:
            raise setting.refuse(error.message, error.hint) from error
        if profile is not None and key == "profile":
            raise setting.refuse("a profile cannot choose a profile", "take the line out")
        if source is Source.PROJECT and key in USERS_ALONE:
            raise setting.refuse(
                f"a project's file cannot set '{key}'", f"take it out, or set it for yourself: specgen config set {key}"
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
    """The line where `key` of this table is set, from 1; None where it is written in some other form."""
    wanted = "" if profile is None else f"{_PROFILES}.{profile}"
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([^\[\]]+)\]", line):
            table = re.sub(r"[\s\"']", "", header[1])
        elif table == wanted and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
    return None
