"""Schemas as pydantic and zod generate them, and escapes of GBNF."""

import json
from typing import Any

import pytest

from specgen.core.errors import UsageError
from specgen.core.types import Constraint
from specgen.engine.sampling.constraint import Vocabulary
from specgen.engine.sampling.grammar import compile_grammar
from specgen.engine.sampling.schema import FORMATS
from tests.fakes import tokenizer

VOCABULARY = Vocabulary(tokenizer(), frozenset({0}))


def accepts(kind: Any, text: str, answer: str) -> bool:
    return VOCABULARY.accepts(compile_grammar(Constraint(kind, text)), answer)


def obj(*required: str, closed: bool = False, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        **({"required": list(required)} if required else {}),
        **({"additionalProperties": False} if closed else {}),
    }


INTEGER = {"type": "integer"}
# pydantic gives the tag of a union a default, and so does not require it.
CAT = obj(kind={"const": "cat", "default": "cat", "type": "string"}, lives=INTEGER)
DOG = obj(kind={"enum": ["dog", "wolf"], "default": "dog", "type": "string"}, tricks=INTEGER)
REFERENCES = {"oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]}
PETS = {"$defs": {"Cat": CAT, "Dog": DOG}, "type": "object"}
ZOD_EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
INTEGERS = {"type": "object", "additionalProperties": INTEGER}

KEPT: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("password", {"type": "string", "format": "password"}, ['"x"'], ["1"]),
    ("int32", {"type": "integer", "format": "int32"}, ["1"], ['"x"']),
    ("nested format", {"type": "array", "items": {"type": "string", "format": "cuid"}}, ['["x"]'], ["[1]"]),
    ("a property called format", obj("format", closed=True, format={"type": "string"}), ['{"format": "x"}'], ["{}"]),
    ("a property called not", obj("not", closed=True, **{"not": INTEGER}), ['{"not": 1}'], ["{}"]),
    ("keywords in a value", {"const": {"not": 1, "format": "q"}}, ['{"not": 1, "format": "q"}'], ["{}"]),
    ("no uniqueItems", {"type": "array", "items": INTEGER, "uniqueItems": False}, ["[1, 1]"], ['"x"']),
    (
        "tagged union",
        {"oneOf": [CAT, DOG]},
        ['{"kind": "cat", "lives": 9}', '{"kind": "wolf", "tricks": 1}'],
        ['{"lives": 9}', '{"kind": "cow"}'],
    ),
    (
        "tagged union of pydantic",
        PETS | obj("pet", closed=True, pet={**REFERENCES, "discriminator": {"propertyName": "kind", "mapping": {}}}),
        ['{"pet": {"kind": "dog"}}'],
        ['{"pet": {}}', '{"pet": {"kind": "dog", "tricks": "many"}}'],
    ),
    (
        "externally tagged",
        {"oneOf": [obj("a", closed=True, a=INTEGER), obj("b", closed=True, b=INTEGER)]},
        ['{"a": 1}', '{"b": 1}'],
        ["{}", '{"a": 1, "b": 1}'],
    ),
    (
        "values",
        {"oneOf": [{"const": "a"}, {"type": "string", "enum": ["b"]}, {"type": "null"}, CAT]},
        ['"a"', '"b"', "null", '{"kind": "cat"}'],
        ['"c"'],
    ),
    (
        "oneOf beside anyOf",
        {"anyOf": [{"type": "string"}, INTEGER], "oneOf": [INTEGER, {"type": "null"}]},
        ["1"],
        ['"a"', "null"],
    ),
    (
        "email of zod",
        {"type": "string", "format": "email", "pattern": ZOD_EMAIL},
        ['"a.b@c.de"'],
        ['".a@c.de"', '"a..b@c.de"'],
    ),
    ("no look-around", {"type": "string", "pattern": r"^\(?=[(?!]x$"}, ['"(=!x"', '"=(x"'], ['"x"']),
    ("record of zod", INTEGERS | {"propertyNames": {"type": "string"}}, ['{"a": 1}'], ['{"a": "b"}']),
    (
        "record with names",
        INTEGERS | {"propertyNames": {"enum": ["a", "b"]}, "required": ["a", "b"]},
        ['{"a": 1, "b": 2}'],
        ['{"a": 1}', '{"c": 1}'],
    ),
    ("record with a pattern", INTEGERS | {"propertyNames": {"pattern": "^x"}}, ['{"xa": 1}'], ['{"a": 1}']),
]


@pytest.mark.parametrize(("schema", "good", "bad"), [case[1:] for case in KEPT], ids=[case[0] for case in KEPT])
def test_schemas_that_programs_write_are_kept(schema: dict[str, Any], good: list[str], bad: list[str]) -> None:
    text = json.dumps(schema)
    assert all(accepts("json-schema", text, each) for each in good)
    assert not any(accepts("json-schema", text, each) for each in bad)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_known_formats_are_enforced(name: str) -> None:
    assert not accepts("json-schema", json.dumps({"type": "string", "format": name}), '"no such thing!"')


OVERLAPPING = {"oneOf": [INTEGER, {"type": "number"}]}
NEEDS_AGE = {"if": {"required": ["age"]}, "then": {"required": ["name"]}}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (obj(q=OVERLAPPING), ['"oneOf" at properties.q', 'write "anyOf"']),
        (OVERLAPPING, ['"oneOf" has branches']),
        (obj(q={"type": "array", "uniqueItems": True}), ['"uniqueItems" at properties.q', "leave it out"]),
        ({"not": {"type": "string"}}, ['"not" cannot be enforced', '"enum"']),
        ({"anyOf": [{"type": "null"}, NEEDS_AGE]}, ['"if" at anyOf[1]', 'as an "anyOf"']),
        ({"type": "string", "pattern": "^(?!a)b"}, ['"pattern" has look-around', "without"]),
        ({"patternProperties": {"^(?<!x)y": INTEGER}}, ['key of "patternProperties" has look-around']),
        ({"oneOf": [INTEGER] * 5000}, ['"oneOf" has branches']),
        ({"$defs": {"A": {"contains": {}}}, "$ref": "#/$defs/A"}, ['"contains" at $defs.A', "leave it out"]),
        (obj(a={"propertyNames": {"maxLength": 3}}), ['"propertyNames" at properties.a', '"patternProperties"']),
        ({"unevaluatedProperties": False}, ['"additionalProperties": false']),
    ],
    ids=str,
)
def test_a_keyword_that_cannot_be_enforced_is_named(schema: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        compile_grammar(Constraint("json-schema", json.dumps(schema)))
    assert all(each in str(caught.value) for each in words), str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '{"items":' * 3000 + "{}" + "}" * 3000,
        '{"oneOf": 1}',
        '{"oneOf": []}',
        '{"oneOf": [1, {"type": [{}]}, {"type": 5}]}',
        '{"$ref": "#/$defs/A"}',
        '{"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}, "oneOf": [{"$ref": "#/$defs/A"}, {}]}',
        '{"properties": []}',
        '{"const": 1e999}',
        '{"const": NaN}',
        '{"required": 1, "oneOf": [{"type": "object", "required": 5}, {"type": "object", "properties": 7}]}',
    ],
    ids=lambda text: text[:40],
)
def test_broken_schemas_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        compile_grammar(Constraint("json-schema", text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        (r'root ::= "\u00e0"', "à", "a"),
        (r"root ::= [\u00e0-\u00ef]", "é", "z"),
        (r"root ::= [^\u00e0]", "a", "à"),
        (r'root ::= "\xe0"', "à", "a"),
        (r'root ::= "\U0001F600"', "😀", "x"),
        (r"root ::= [\u005d]", "]", "u"),
        (r"root ::= [\u005e\u0061]", "^", "b"),
        (r"root ::= [\u002d\u0061]", "-", "b"),
        (r'root ::= "\u0022"', '"', "u"),
        (r'root ::= "\u000a"', "\n", "n"),
        (r'root ::= "\u200b"', "\u200b", "u"),
        (r'root ::= "\\u00e0"', r"\u00e0", "à"),
        (r'start: "\u00e0"', "à", "a"),
    ],
)
def test_escapes_of_a_grammar_are_characters(grammar: str, good: str, bad: str) -> None:
    assert accepts("grammar", grammar, good)
    assert not accepts("grammar", grammar, bad)


def test_an_escape_that_is_no_character_is_refused() -> None:
    with pytest.raises(UsageError, match="is no character"):
        compile_grammar(Constraint("grammar", r'root ::= "\ud83d"'))
