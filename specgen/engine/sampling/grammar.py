"""A constraint as the grammar that llguidance reads. Imports no torch, so that a bad one is refused at once."""

from typing import TYPE_CHECKING

from llguidance import LLMatcher, grammar_from

from specgen.core.errors import UsageError
from specgen.core.types import Constraint

# JSON as models write it, in one line. Free white space would leave nothing forced, and small models never end it.
if TYPE_CHECKING:  # a name of its stub alone
    from llguidance._lib import JsonCompileOptions

_JSON: "JsonCompileOptions" = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_NAMES = {"json-schema": "JSON schema", "regex": "regex", "grammar": "grammar"}


def compile_grammar(constraint: Constraint) -> str:
    """The grammar of `constraint`. Raises UsageError, in one line, where it makes no sense or nothing satisfies it."""
    try:
        grammar = _grammar(constraint)
        failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    except ValueError as error:
        failed, messages = True, [str(error)]
    if failed:
        raise UsageError(
            f"the {_NAMES[constraint.kind]} cannot be used: {_one_line(messages)}", hint="see docs/structured.md"
        )
    return grammar


def _grammar(constraint: Constraint) -> str:
    if constraint.kind == "json-schema":
        if constraint.text.lstrip()[:1] != "{":
            raise ValueError("a schema must be an object")
        return LLMatcher.grammar_from_json_schema(constraint.text, _JSON)
    if constraint.kind == "regex":
        return LLMatcher.grammar_from_regex(constraint.text)
    return grammar_from("gbnf", constraint.text)  # which knows Lark when it sees it


def _one_line(messages: list[str]) -> str:
    """The first line of a message and, where it has one, the line that says what is wrong."""
    lines = [line.strip() for line in "\n".join(messages).splitlines()]
    reasons = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return reasons[0] if reasons else lines[0]
