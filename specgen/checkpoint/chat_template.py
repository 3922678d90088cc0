"""Render a conversation with the model's jinja2 chat template.

The environment copies that of transformers (utils/chat_template_utils.py), for which templates are written. Templates
are untrusted, so they run in jinja2's sandbox.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from specgen.core.errors import UnsupportedModel, UsageError
from specgen.core.types import Message


def render(
    template: str,
    messages: Sequence[Message],
    *,
    special_tokens: Mapping[str, str],
    add_generation_prompt: bool,
    **variables: object,
) -> str:
    """Render `messages` to text. The template writes BOS itself, so encode the text without special tokens.

    With `add_generation_prompt` the text ends at the start of the assistant's answer. `variables` are passed to the
    template (enable_thinking, ...) and override special tokens of the same name.

    Raises UsageError with the template's message if it refuses the conversation, UnsupportedModel if it is broken.
    """
    compiled = _compile(template)
    context: dict[str, object] = {
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        **special_tokens,
        **variables,
    }
    try:
        return compiled.render(context)
    except _RefusedError as error:
        raise UsageError(
            f"the model's chat template refuses these messages: {_one_line(error)}",
            hint="change the messages or the system prompt",
        ) from error
    except Exception as error:  # a template is an untrusted program: it can raise anything
        raise UnsupportedModel(
            f"the model's chat template fails: {_one_line(error)}", hint="use another revision of the model"
        ) from error


class _RefusedError(TemplateError):
    """Raised by `raise_exception` in a template."""


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's text for training. Its body is rendered unchanged."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A call block has its own scope: a `set` inside must not leak out.
        return CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Macro) -> str:
        return caller()


class _Dict:
    """`dict` for templates: calls and fromkeys, without access to the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class _Namespace(Namespace):
    """`namespace` for templates, without underscore names: they could reach Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # self has no name: a template may write namespace(self=...)
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _refuse_underscore(name)
        Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a chat template may not store {name!r} in a namespace")


def _raise_exception(message: str) -> NoReturn:
    raise _RefusedError(message)


def _strftime_now(format: str) -> str:  # noqa: A002 - templates may pass it by name
    return datetime.now().strftime(format)


def _tojson(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's own filter escapes HTML, which models were not trained on.
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=8)
def _compile(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = _Namespace
    try:
        return environment.from_string(template)
    except TemplateError as error:
        raise UnsupportedModel(
            f"the model's chat template cannot be read: {_one_line(error)}", hint="use another revision of the model"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
