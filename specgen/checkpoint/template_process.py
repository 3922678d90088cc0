"""The process that renders chat templates: one JSON request a line on stdin, one JSON reply a line on stdout.

It imports jinja2 and the standard library only, so that it starts in about 60 ms. chat_template.py starts it and
kills it. The environment copies that of transformers (utils/chat_template_utils.py), for which templates are written.
"""

import json
import math
import sys
from contextlib import suppress
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


def serve() -> None:
    """Answer requests until stdin ends."""
    for line in sys.stdin:
        reply = json.dumps(_reply(json.loads(line)))
        sys.stdout.write(reply + "\n")
        sys.stdout.flush()


def _reply(request: dict[str, Any]) -> dict[str, str]:
    """`text` of a rendered template, or `refused`, `unreadable` or `failed` with a message."""
    _limit(request["cpu_s"], request["memory"])
    try:
        template = _compile(request["template"])
    except Exception as error:  # a template is untrusted: it can raise anything
        return {"unreadable": _one_line(error)}
    try:
        text = template.render(request["context"])
    except _RefusedError as error:
        return {"refused": _one_line(error)}
    except Exception as error:
        return {"failed": _one_line(error)}
    if len(text) > request["longest"]:
        return {"failed": f"it writes more than {request['longest']} characters"}
    return {"text": text}


def _limit(cpu_s: float, memory: int) -> None:
    """Let the system end this process after `cpu_s` more seconds, and refuse it more than `memory` bytes."""
    with suppress(ImportError, ValueError, OSError):  # Windows has no such limits, macOS ignores some
        import resource  # noqa: PLC0415

        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        for kind, limit in ((resource.RLIMIT_CPU, math.ceil(used + cpu_s)), (resource.RLIMIT_AS, memory)):
            resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))


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
    return environment.from_string(template)


def _one_line(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "it takes too much memory"
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    serve()
