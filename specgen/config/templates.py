"""Prompt templates with variables and options, each a TOML file in the config folder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

import tomli
import tomli_w

from specgen.core.errors import BadFile, UsageError
from specgen.core.files import config_folder, read_text, replace_file
from specgen.core.words import did_you_mean, reason

INPUT = "input"
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*")
_VARIABLE = re.compile(r"[A-Za-z_][\w-]*")
_LARGEST = 1 << 20  # bytes of a template
_KEYS = ("about", "prompt", "system", "defaults", "options")


@dataclass(frozen=True, slots=True)
class Template:
    """A template. `prompt` and `system` have variables in braces. `defaults` are values of variables.

    `options` maps long names of options of `specgen run` to values, for example `max-tokens` to 40.
    """

    name: str
    about: str = ""
    prompt: str = ""
    system: str = ""
    defaults: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables, `input` included, in the order of their first use. Raises UsageError."""
        found = [name for text in (self.system, self.prompt) for _, name in self._pieces(text) if name]
        return tuple(dict.fromkeys(found))

    def fill(self, given: Mapping[str, str], text: str | None) -> tuple[str, str]:
        """The prompt and the system prompt, with values `given` for variables and `text` for the input.

        Without {input}, the input and a blank line go before the prompt. Raises UsageError.
        """
        wanted = [name for name in self.variables if name != INPUT]
        for name in given:
            if name not in wanted:
                hint = did_you_mean(name, wanted, f"it has {', '.join(wanted) or 'none'}")
                raise UsageError(f"template '{self.name}' has no variable '{name}'", hint=hint)
        if missing := [name for name in wanted if name not in {**self.defaults, **given}]:
            needed = " ".join(f"-p {name}=..." for name in missing)
            raise UsageError(f"template '{self.name}' needs {', '.join(missing)}", hint=f"give {needed}")
        if INPUT in self.variables and text is None:
            raise UsageError(
                f"template '{self.name}' needs an input", hint="pipe it in, name a file with -f, or write it at the end"
            )
        values = {**self.defaults, **given, INPUT: text or ""}
        prompt, system = (
            "".join(literal + (values[name] if name else "") for literal, name in self._pieces(each))
            for each in (self.prompt, self.system)
        )
        if text is not None and INPUT not in self.variables:
            prompt = f"{text.rstrip(chr(10))}\n\n{prompt}" if prompt else text
        return prompt, system

    def _pieces(self, text: str) -> list[tuple[str, str | None]]:
        """Pieces of literal text, each with the variable after it. Raises UsageError."""
        try:
            pieces = list(Formatter().parse(text))
        except ValueError:
            pieces = [("", "", "", None)]
        for _, name, form, conversion in pieces:
            if name is not None and (form or conversion or not _VARIABLE.fullmatch(name)):
                raise UsageError(
                    f"template '{self.name}' has a brace that is not part of a variable such as {{input}}",
                    hint="write {{ for { and }} for }",
                )
        return [(literal, name) for literal, name, _, _ in pieces]


def folder() -> Path:
    """The folder of the templates, present or not."""
    return config_folder() / "templates"


def names() -> list[str]:
    """The names of all templates, in alphabetical order."""
    return sorted(path.stem for path in folder().glob("*.toml"))


def location(name: str) -> Path:
    """The file of a template, present or not. Raises UsageError for an invalid name."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"'{name}' is not a valid name for a template", hint="use letters, digits, '-', '_' and '.'")
    return folder() / f"{name}.toml"


def load(name: str) -> Template:
    """The template with this name. Raises UsageError if there is none, BadFile for an invalid file."""
    path = location(name)
    try:
        table = tomli.loads(read_text(path, _LARGEST))
    except FileNotFoundError as error:
        hint = did_you_mean(name, names(), "specgen templates lists them; --save makes one")
        raise UsageError(f"there is no template '{name}'", hint=hint) from error
    except (OSError, ValueError) as error:  # ValueError: invalid TOML or UTF-8
        raise BadFile(f"cannot read the template {path}: {reason(error)}", hint="correct or delete the file") from error
    _check(table, path)
    return Template(name, **table)


def save(template: Template) -> Path:
    """Write the file of a template and return its path. Raises UsageError, OSError."""
    path = location(template.name)
    template.variables  # noqa: B018 - raises for invalid braces
    table = {key: value for key in _KEYS if (value := getattr(template, key))}
    replace_file(path, tomli_w.dumps(table, multiline_strings=True))
    return path


def _check(table: Mapping[str, Any], path: Path) -> None:
    for key, value in table.items():
        if key not in _KEYS:
            raise BadFile(
                f"{path} has an unknown key '{key}'", hint=did_you_mean(key, _KEYS, f"there are {', '.join(_KEYS)}")
            )
        texts = [value] if key in ("about", "prompt", "system") else []
        if key == "defaults" and isinstance(value, dict):
            texts += value.values()
        if not all(isinstance(text, str) for text in texts) or (key in ("defaults", "options")) != isinstance(
            value, dict
        ):
            kind = "a table of texts" if key == "defaults" else "a table" if key == "options" else "a text"
            raise BadFile(f"'{key}' in {path} is not {kind}", hint="correct the file")
