"""Rewrites JSON schemas of pydantic and zod into keywords that llguidance can enforce.

Every text that the rewritten schema allows is valid under the original. A keyword that cannot be enforced is an error
that names the keyword, its place, and what to write instead.
"""

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]

# The formats that llguidance enforces. Other formats are annotations by JSON Schema 2020-12, validation, 7.2.
FORMATS = frozenset({"date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
# zod's pattern for email addresses starts with this. The format rules out the same texts, without look-around.
_EMAIL_LOOK_AHEAD = r"^(?!\.)(?!.*\.\.)"
_LOOK_AROUND = re.compile(r"\(\?<?[=!]")
_ESCAPES_AND_CLASSES = re.compile(r"\\.|\[\^?\]?(?:[^\]\\]|\\.)*\]", re.DOTALL)
# Most branches of a "oneOf" that are compared in pairs.
_MOST_BRANCHES = 200
_SUBSCHEMA = ("additionalProperties", "items", "additionalItems")
_SUBSCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_SUBSCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_TYPE_NAMES = {
    str: "string",
    int: "number",
    float: "number",
    bool: "boolean",
    type(None): "null",
    dict: "object",
    list: "array",
}
_CHECK_AFTERWARDS = "leave it out, and check the answer afterwards"
_UNSUPPORTED = {
    "not": 'list what is allowed by "enum", "anyOf" or "pattern" instead',
    "if": 'write the cases as an "anyOf" of whole schemas instead',
    "then": 'write the cases as an "anyOf" of whole schemas instead',
    "else": 'write the cases as an "anyOf" of whole schemas instead',
    "uniqueItems": _CHECK_AFTERWARDS,
    "contains": _CHECK_AFTERWARDS,
    "minContains": _CHECK_AFTERWARDS,
    "maxContains": _CHECK_AFTERWARDS,
    "unevaluatedItems": 'write "items": false after "prefixItems" instead',
    "unevaluatedProperties": 'write all properties in one object with "additionalProperties": false instead',
    "dependentRequired": 'write the cases as an "anyOf" of objects instead',
    "dependentSchemas": 'write the cases as an "anyOf" of objects instead',
    "dependencies": 'write the cases as an "anyOf" of objects instead',
    "propertyNames": 'write "patternProperties" with "additionalProperties": false instead',
}


def simplify(text: str) -> tuple[str, str | None]:
    """The JSON schema `text`, rewritten, and the place of the first "oneOf" that may be ambiguous, None without one.

    Raises ValueError, in one line, if `text` is no JSON or cannot be enforced.
    """
    try:
        schema = json.loads(text)
        if not isinstance(schema, dict):
            raise ValueError("a schema must be an object")
        rewriter = _Rewriter(schema)
        rewritten = json.dumps(rewriter.schema(schema, ""))
        return rewritten, next(iter(rewriter.ambiguous), None)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def ambiguous_one_of(place: str) -> ValueError:
    """The error for a "oneOf" at `place` whose branches may match the same value."""
    return ValueError(
        f'"oneOf"{_at(place)} has branches that may match the same value: '
        'write "anyOf", or give each branch a property with another "const"'
    )


class _Rewriter:
    """Rewrites the schemas of one document, whose `root` holds the definitions."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self.ambiguous: list[str] = []
        """The places of the "oneOf" that are left, because a value may match several of its branches."""

    def schema(self, schema: Any, place: str) -> Any:
        """`schema` rewritten; `place` is its path in the document, for messages."""
        if not isinstance(schema, dict):
            return schema  # true, false, or wrong: llguidance names what is wrong
        schema = _without_annotation(_with_named_properties(schema))
        self._check(schema, place)
        if isinstance(schema.get("oneOf"), list):
            schema = self._without_one_of(schema, place)
        return {key: self._value(key, value, f"{place}.{key}" if place else key) for key, value in schema.items()}

    def _value(self, key: str, value: Any, place: str) -> Any:
        """The value of a keyword, with its subschemas rewritten."""
        if key in _SUBSCHEMA_MAPS and isinstance(value, dict):
            return {name: self.schema(each, f"{place}.{name}") for name, each in value.items()}
        if key in _SUBSCHEMA_LISTS and isinstance(value, list):
            return [self.schema(each, f"{place}[{index}]") for index, each in enumerate(value)]
        return self.schema(value, place) if key in _SUBSCHEMA else value

    def _check(self, schema: Schema, place: str) -> None:
        for key, instead in _UNSUPPORTED.items():
            if key in schema:
                raise ValueError(f'"{key}"{_at(place)} cannot be enforced: {instead}')
        if isinstance(pattern := schema.get("pattern"), str) and _has_look_around(pattern):
            raise ValueError(f'"pattern"{_at(place)} has look-around, which cannot be enforced: write it without')
        for pattern in _mapping(schema.get("patternProperties")):
            if _has_look_around(pattern):
                raise ValueError(
                    f'a key of "patternProperties"{_at(place)} has look-around, which cannot be enforced: '
                    "write it without"
                )

    def _without_one_of(self, schema: Schema, place: str) -> Schema:
        """`schema` with "anyOf" instead of "oneOf" if no value matches two branches.

        A property that tells branches apart becomes required in them: without it an object might match both.
        """
        branches = schema["oneOf"]
        if len(branches) > _MOST_BRANCHES:
            self.ambiguous.append(place)
            return schema
        required: list[set[str]] = [set() for _ in branches]
        for (i, one), (j, other) in itertools.combinations(enumerate(map(self._resolved, branches)), 2):
            if _are_apart(one, other):
                continue
            if (tag := _tag(one, other)) is None:
                self.ambiguous.append(place)
                return schema
            required[i].add(tag)
            required[j].add(tag)
        tagged = [
            {"allOf": [branch, {"type": "object", "required": sorted(tags)}]} if tags else branch
            for branch, tags in zip(branches, required, strict=True)
        ]
        rest = {key: value for key, value in schema.items() if key not in ("oneOf", "discriminator")}
        if "anyOf" in rest:
            return rest | {"allOf": [*_list(rest.get("allOf")), {"anyOf": tagged}]}
        return rest | {"anyOf": tagged}

    def _resolved(self, branch: Any) -> Schema:
        """`branch`, or the definition that it refers to."""
        for _ in range(8):
            reference = branch.get("$ref") if isinstance(branch, dict) else None
            if not isinstance(reference, str) or not reference.startswith("#/"):
                break
            branch = self._root
            for name in reference.removeprefix("#/").split("/"):
                branch = branch.get(name) if isinstance(branch, dict) else None
        return branch if isinstance(branch, dict) else {}


def _without_annotation(schema: Schema) -> Schema:
    """`schema` without keywords that demand nothing, and with zod's pattern for email addresses simplified."""
    schema = dict(schema)
    if schema.get("format") == "email" and str(schema.get("pattern")).startswith(_EMAIL_LOOK_AHEAD):
        schema["pattern"] = "^" + schema["pattern"].removeprefix(_EMAIL_LOOK_AHEAD)
    if schema.get("format") not in FORMATS:
        schema.pop("format", None)
    if schema.get("uniqueItems") is False:
        del schema["uniqueItems"]
    return schema


def _with_named_properties(schema: Schema) -> Schema:
    """`schema` without "propertyNames" where other keywords say the same, as for zod's records."""
    names = schema.get("propertyNames")
    if names is None:
        return schema
    rest = {key: value for key, value in schema.items() if key != "propertyNames"}
    if names in (True, {}, {"type": "string"}):
        return rest
    values = rest.get("additionalProperties", True)
    alone = not rest.keys() & {"properties", "patternProperties"} and isinstance(names, dict)
    if alone and (allowed := [json.loads(each) for each in _values(names)]):
        return rest | {"properties": dict.fromkeys(map(str, allowed), values), "additionalProperties": False}
    if alone and names.keys() <= {"type", "pattern"} and "pattern" in names:
        return rest | {"patternProperties": {names["pattern"]: values}, "additionalProperties": False}
    return schema


def _values(schema: Any) -> list[str]:
    """The JSON texts of the values that "const" or "enum" allow, empty without either."""
    if not isinstance(schema, dict):
        return []
    if "const" in schema:
        return [json.dumps(schema["const"], sort_keys=True)]
    return [json.dumps(each, sort_keys=True) for each in _list(schema.get("enum"))]


def _types(schema: Schema) -> set[str]:
    """The JSON types that a schema allows, empty if unknown. An integer is a number."""
    if isinstance(schema.get("type"), str):
        names = {schema["type"]}
    elif "type" in schema:
        names = {str(each) for each in _list(schema["type"])}
    else:
        names = {_TYPE_NAMES[type(json.loads(each))] for each in _values(schema)}
    return {"number" if name == "integer" else name for name in names}


def _are_apart(one: Schema, other: Schema) -> bool:
    """Whether no value matches both schemas, by their types, values, or closed sets of properties."""
    for mine, theirs in ((_types(one), _types(other)), (set(_values(one)), set(_values(other)))):
        if mine and theirs and not mine & theirs:
            return True
    return _is_closed_to(one, other) or _is_closed_to(other, one)


def _is_closed_to(one: Schema, other: Schema) -> bool:
    """Whether an object of `other` needs a property that `one` forbids."""
    if _types(one) != {"object"} or one.get("additionalProperties") is not False or "patternProperties" in one:
        return False
    return bool(set(map(str, _list(other.get("required")))) - _properties(one).keys())


def _tag(one: Schema, other: Schema) -> str | None:
    """The first property whose values differ in two schemas of objects, None without one."""
    if not _types(one) == _types(other) == {"object"}:
        return None
    for name, schema in _properties(one).items():
        mine, theirs = set(_values(schema)), set(_values(_properties(other).get(name)))
        if mine and theirs and not mine & theirs:
            return name
    return None


def _properties(schema: Schema) -> Mapping[str, Any]:
    return _mapping(schema.get("properties"))


def _has_look_around(pattern: str) -> bool:
    return _LOOK_AROUND.search(_ESCAPES_AND_CLASSES.sub("", pattern)) is not None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _at(place: str) -> str:
    return f" at {place}" if place else ""
