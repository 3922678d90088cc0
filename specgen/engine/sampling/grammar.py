"""Compiles a constraint into a grammar of llguidance, with thinking before it. No torch."""

import json
import re
from typing import TYPE_CHECKING

from llguidance import LLMatcher, grammar_from

from specgen.core.errors import UsageError
from specgen.core.types import Constraint
from specgen.engine.sampling.schema import ambiguous_one_of, simplify

if TYPE_CHECKING:  # defined in the stub only
    from llguidance._lib import JsonCompileOptions

# JSON on one line, with the separators that models write. Free white space would leave nothing forced, and small models
# never end it.
_JSON: "JsonCompileOptions" = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_NAMES = {"json-schema": "JSON schema", "regex": "regex", "grammar": "grammar"}
_GBNF_RULE = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)
_GBNF_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|.)", re.DOTALL)
# Characters with a meaning in a string, a character class, or the regex that a class becomes.
_GBNF_SYNTAX = set('"\\[]^-/\n\r\t')
_REGEX_SYNTAX = re.compile(r"[\\.+*?()|\[\]{}^$/]")


def compile_grammar(constraint: Constraint) -> str:
    """The grammar of `constraint`. Raises UsageError, in one line, if it is invalid or nothing satisfies it."""
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


def after_thinking(grammar: str, opening: tuple[str, int | None] | None, closing: tuple[str, int | None]) -> str:
    """`grammar`, from compile_grammar, on the text after the closing tag of the thinking.

    A tag is its text and its id if it is a special token. With `opening` the text may start with the thinking, or with
    the answer; with None the prompt has opened the thinking already.
    """
    text, token = closing
    rules = [
        "start: thinking @answer" if opening is None else "start: (opening thinking)? @answer",
        "thinking: closed" if token is None else f"thinking: closed | /(?s:.*)/ <[{token}]>",
        f"closed[lazy]: /(?s:.*){_REGEX_SYNTAX.sub(_escaped, text)}/",
    ]
    if opening is not None:
        text, token = opening
        rules.append(f"opening: {json.dumps(text)}" + ("" if token is None else f" | <[{token}]>"))
    answer = json.loads(grammar)["grammars"][0] if grammar.lstrip().startswith("{") else {"lark_grammar": grammar}
    return json.dumps({"grammars": [{"lark_grammar": "\n".join(rules)}, answer | {"name": "answer"}]})


def _escaped(match: re.Match[str]) -> str:
    return f"\\{match[0]}"


def _grammar(constraint: Constraint) -> str:
    text = constraint.text
    if constraint.kind == "json-schema":
        return _schema_grammar(text)
    if constraint.kind == "regex":
        return LLMatcher.grammar_from_regex(text)
    if _GBNF_RULE.search(text):
        text = _GBNF_ESCAPE.sub(_literal, text)
    return grammar_from("gbnf", text)  # converts GBNF, and passes Lark on


def _schema_grammar(text: str) -> str:
    simplified, ambiguous = simplify(text)
    grammar = LLMatcher.grammar_from_json_schema(simplified, _JSON)
    if ambiguous is not None:
        failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
        if failed and "oneOf" in messages[0]:
            raise ambiguous_one_of(ambiguous)
    return grammar


def _literal(match: re.Match[str]) -> str:
    r"""The character of a GBNF escape such as \u00e0, which the converter to Lark does not know."""
    digits = match[1] or match[2] or match[3]
    if digits is None:
        return match[0]
    if int(digits, 16) > 0x10FFFF or 0xD800 <= int(digits, 16) < 0xE000:
        raise ValueError(f"{match[0]} is no character")
    character = chr(int(digits, 16))
    if character in _GBNF_SYNTAX or not character.isprintable():
        return f"\\x{ord(character):02x}" if ord(character) < 0x100 else match[0]
    return character


def _one_line(messages: list[str]) -> str:
    """The first line of the messages, or the first line that names an error."""
    lines = [line.strip() for line in "\n".join(messages).splitlines()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[0] if errors else lines[0]
