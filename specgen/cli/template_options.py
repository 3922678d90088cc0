"""Templates on the command line: -t sets options, -p fills variables, --save keeps both."""

import sys
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any

import typer

from specgen.cli.option_values import checked, default, typed
from specgen.cli.ui import confirm
from specgen.config import templates
from specgen.config.pairs import canonical_name
from specgen.config.settings import Setting, Source
from specgen.config.templates import Template
from specgen.core.errors import BadFile, UsageError
from specgen.core.words import did_you_mean
from specgen.render.terminal import is_terminal

# Not options of an answer, or separate keys of the template file.
_NO_OPTIONS = frozenset(
    [
        "prompt",
        "system",
        "file",
        "trace",
        "template",
        "variable",
        "save",
        "continue_",
        "continue_from",
        "help",
        "profile",
    ]
)


def preset(context: typer.Context, template: Template | None) -> Template | None:
    """Callback of -t: the options of `template` become the defaults of this command. Raises BadFile."""
    if template is None:
        return None
    known = dict(_options(context))
    defaults: dict[str, Any] = {}
    for option, value in template.options.items():
        if option not in known:
            raise BadFile(
                f"template '{template.name}' sets '{option}', which is not an option",
                hint=did_you_mean(option, known, "specgen run --help lists them"),
            )
        setting = Setting(option, value, Source.USER, str(templates.location(template.name)))
        defaults[known[option].name] = checked(context, known[option], setting)
    if "model" in template.options:  # the draft of a setting belongs to another target
        defaults.setdefault("draft", default(context, "draft"))
    context.default_map = {**(context.default_map or {}), **defaults}
    return template


def filled(
    template: Template | None, given: Sequence[str], text: str | None, system: str | None
) -> tuple[str | None, str | None]:
    """The prompt and the system prompt, after `template` if there is one. Raises UsageError."""
    if template is None:
        if given:
            raise UsageError("-p fills the variables of a template", hint="name the template with -t")
        return text, system
    prompt, own = template.fill(_variables(given), text)
    return prompt or None, system if system is not None else own or None


# Options whose value may name a file.
_FILES = ("model", "draft", "json-schema", "grammar")


def current(context: typer.Context, name: str, words: Sequence[str]) -> Template:
    """A template `name` of this command line, based on the template of -t if there is one."""
    base: Template = context.params["template"] or Template(name)
    options = dict(base.options)
    for option, parameter in _options(context):
        if typed(context, parameter.name):
            value = _toml_value(context.params[parameter.name])
            # A template is used from any folder.
            options[option] = canonical_name(value) if option in _FILES else value
    return Template(
        name,
        about=base.about,
        prompt=" ".join(words) or base.prompt,
        system=context.params["system"] or base.system,
        defaults={**base.defaults, **_variables(context.params["variable"])},
        options=options,
    )


def save(template: Template) -> None:
    """Write the template and print its path. Raises UsageError in a pipe if the name is taken."""
    path = templates.location(template.name)
    if path.exists():
        taken = f"there is a template '{template.name}' already"
        if not is_terminal(sys.stdin):
            raise UsageError(taken, hint=f"take another name, or delete {path}")
        if not confirm(f"{taken}. Replace it?", yes=False, needs="replacing it"):
            typer.echo("Nothing was saved.", err=True)
            raise typer.Exit(1)
    templates.save(template)
    typer.echo(f"saved {path}; specgen -t {template.name} uses it", err=True)


def _variables(given: Sequence[str]) -> dict[str, str]:
    """The values of `key=value` texts. Raises UsageError."""
    pairs = [text.partition("=") for text in given]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise UsageError(f"-p is '{key}'", hint="give a name and a value: -p key=value")
    return {key: value for key, _, value in pairs}


def _options(context: typer.Context) -> Iterator[tuple[str, Any]]:
    """The options that a template may set, as (long name, parameter)."""
    for parameter in context.command.params:
        long = [name.removeprefix("--") for name in parameter.opts if name.startswith("--")]
        if parameter.name and long and parameter.name not in _NO_OPTIONS:
            yield long[0], parameter


def _toml_value(value: Any) -> Any:
    """`value` for TOML. None is the draft length `auto`; no other typed option is None."""
    if value is None:
        return "auto"
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, list | tuple) else value
