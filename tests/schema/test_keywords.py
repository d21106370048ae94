"""Every keyword of JSON Schema in a tool's parameters: held by the grammar, or checked afterwards, or named.

The keywords are those of the specifications: https://json-schema.org/draft/2020-12/json-schema-core and -validation,
https://json-schema.org/draft-07/json-schema-validation, https://json-schema.org/draft-04/json-schema-validation. What
is right is judged by jsonschema_rs, a validator in Rust.
"""

import json
from typing import Any, Literal, NamedTuple

import jsonschema
import jsonschema_rs
import pytest

from llama3_mlx.errors import RequestError
from llama3_mlx.schema.keywords import ANNOTATIONS, CHECKED, HELD
from llama3_mlx.structured.grammar import Grammar, compile_grammar
from llama3_mlx.tools.functions import check_arguments

from ..support.byte_llama import byte_tokenizer

DRAFT_4, DRAFT_7 = "http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-07/schema#"
TOKENIZER = byte_tokenizer()


class Case(NamedTuple):
    """A schema of the property `a`, a value of it that fits and one that doesn't."""

    how: Literal["grammar", "check"]
    schema: dict[str, Any]
    fits: Any
    breaks: Any


CASES: dict[str, Case] = {
    "type": Case("grammar", {"type": "integer"}, 3, "x"),
    "enum": Case("grammar", {"enum": ["x", 2]}, 2, 3),
    "const": Case("grammar", {"const": [1]}, [1], [2]),
    "multipleOf": Case("grammar", {"type": "integer", "multipleOf": 7}, 14, 15),
    "maximum": Case("grammar", {"type": "integer", "maximum": 5}, 5, 6),
    "exclusiveMaximum": Case("grammar", {"type": "number", "exclusiveMaximum": 1, "minimum": 0.95}, 0.96, 1),
    "minimum": Case("grammar", {"type": "number", "minimum": 0.5}, 0.5, 0.4),
    "exclusiveMinimum": Case("grammar", {"type": "number", "exclusiveMinimum": 0, "maximum": 0.05}, 0.01, 0),
    "maxLength": Case("grammar", {"type": "string", "maxLength": 2}, "ab", "abc"),
    "minLength": Case("grammar", {"type": "string", "minLength": 2}, "ab", "a"),
    "pattern": Case("grammar", {"type": "string", "pattern": r"^\p{Lu}\p{L}{1,3}$"}, "Übe", "übe"),
    "maxItems": Case("grammar", {"type": "array", "maxItems": 1}, [1], [1, 2]),
    "minItems": Case("grammar", {"type": "array", "minItems": 1}, [1], []),
    "items": Case("grammar", {"type": "array", "items": {"type": "integer"}}, [1], ["x"]),
    "prefixItems": Case("grammar", {"type": "array", "prefixItems": [{"type": "integer"}]}, [1, "x"], ["x"]),
    "additionalItems": Case(
        "grammar", {"type": "array", "items": [{"type": "integer"}], "additionalItems": False}, [1], [1, 2]
    ),
    "properties": Case("grammar", {"type": "object", "properties": {"b": {"type": "integer"}}}, {"b": 1}, {"b": "x"}),
    "required": Case("grammar", {"type": "object", "properties": {"b": {}}, "required": ["b"]}, {"b": 1}, {}),
    "maxProperties": Case("grammar", {"type": "object", "maxProperties": 1}, {"b": 1}, {"b": 1, "c": 2}),
    "minProperties": Case("grammar", {"type": "object", "minProperties": 1}, {"b": 1}, {}),
    "patternProperties": Case(
        "grammar", {"type": "object", "patternProperties": {"^x": {"type": "integer"}}}, {"x": 1}, {"x": "y"}
    ),
    "additionalProperties": Case(
        "grammar", {"type": "object", "additionalProperties": {"type": "integer"}}, {"b": 1}, {"b": "x"}
    ),
    "allOf": Case("grammar", {"allOf": [{"type": "integer"}, {"minimum": 3}]}, 3, 2),
    "anyOf": Case("grammar", {"anyOf": [{"type": "integer"}, {"type": "boolean"}]}, True, "x"),
    "oneOf": Case("grammar", {"oneOf": [{"type": "integer"}, {"type": "string"}]}, 1, True),
    "$ref": Case("grammar", {"$ref": "#/$defs/n"}, 1, "x"),
    "format": Case("grammar", {"type": "string", "format": "date"}, "2024-02-29", "2023-02-29"),
    "not": Case("check", {"type": "integer", "not": {"const": 3}}, 2, 3),
    "if": Case("check", {"type": "integer", "if": {"minimum": 5}, "then": {"multipleOf": 5}}, 4, 7),
    "then": Case("check", {"type": "integer", "if": {"minimum": 5}, "then": {"multipleOf": 5}}, 10, 8),
    "else": Case("check", {"type": "integer", "if": {"minimum": 5}, "else": {"multipleOf": 2}}, 4, 3),
    "contains": Case("check", {"type": "array", "contains": {"type": "integer"}}, ["x", 1], ["x"]),
    "minContains": Case("check", {"type": "array", "contains": {"const": 1}, "minContains": 2}, [1, 1], [1]),
    "maxContains": Case("check", {"type": "array", "contains": {"const": 1}, "maxContains": 1}, [1], [1, 1]),
    "uniqueItems": Case("check", {"type": "array", "uniqueItems": True}, [1, 2], [1, 1]),
    "propertyNames": Case("check", {"type": "object", "propertyNames": {"pattern": "^b"}}, {"b": 1}, {"c": 1}),
    "dependentRequired": Case(
        "check", {"type": "object", "dependentRequired": {"b": ["c"]}}, {"b": 1, "c": 1}, {"b": 1}
    ),
    "dependentSchemas": Case(
        "check", {"type": "object", "dependentSchemas": {"b": {"required": ["c"]}}}, {"b": 1, "c": 1}, {"b": 1}
    ),
    "dependencies": Case("check", {"type": "object", "dependencies": {"b": ["c"]}}, {"b": 1, "c": 1}, {"b": 1}),
    "unevaluatedProperties": Case(
        "check",
        {"type": "object", "allOf": [{"properties": {"b": {}}}], "unevaluatedProperties": False},
        {"b": 1},
        {"c": 1},
    ),
    "unevaluatedItems": Case("check", {"type": "array", "prefixItems": [{}], "unevaluatedItems": False}, [1], [1, 2]),
    "$dynamicRef": Case("check", {"$dynamicRef": "#/$defs/n"}, 1, "x"),
}
OLD: dict[str, tuple[str, dict[str, Any], Any, Any]] = {
    "exclusiveMinimum (draft 4)": (DRAFT_4, {"type": "number", "minimum": 0, "exclusiveMinimum": True}, 1, 0),
    "exclusiveMaximum (draft 4)": (DRAFT_4, {"type": "number", "maximum": 1, "exclusiveMaximum": True}, 0, 1),
    "items and additionalItems": (
        DRAFT_4,
        {"type": "array", "items": [{"type": "integer"}], "additionalItems": {"type": "string"}},
        [1, "x"],
        [1, 1],
    ),
    "$ref by anchor (draft 7)": (DRAFT_7, {"$ref": "#n"}, 1, "x"),
    "$ref beside others (draft 7)": (DRAFT_7, {"$ref": "#/definitions/m", "minimum": 50}, 3, "x"),
    "id (draft 4)": (DRAFT_4, {"$ref": "#n"}, 1, "x"),
}
# Of drafts before 4, and of 2019-09: no schema of the other drafts has them.
OTHER_DRAFTS = {"$recursiveRef", "$recursiveAnchor", "disallow", "extends", "divisibleBy"}


def tool(schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"a": schema}, "required": ["a"], **more}
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


def accepts(grammar: Grammar, text: str) -> bool:
    state = grammar.start()
    for byte in text.encode():
        if state.validate_tokens([byte]) != 1:
            return False
        state.accept(byte)
    return state.may_end


def call(value: Any) -> str:
    return json.dumps({"name": "f", "parameters": {"a": value}}, ensure_ascii=False)


def fits(specification: dict[str, Any], value: Any) -> bool:
    try:
        check_arguments(specification, {"a": value})
    except RequestError:
        return False
    return True


def test_the_table_has_every_keyword() -> None:
    """By the vocabularies of the specifications, and those that llama3_mlx lists are the same."""
    known = {
        keyword
        for draft in (
            jsonschema.Draft202012Validator,
            jsonschema.Draft7Validator,
            jsonschema.Draft4Validator,
        )
        for keyword in draft.VALIDATORS
    }
    assert known - OTHER_DRAFTS <= CASES.keys() | {"$recursiveRef"}
    assert CASES.keys() == (HELD | CHECKED) - OTHER_DRAFTS
    assert not HELD & CHECKED
    assert not ANNOTATIONS & (HELD | CHECKED)


@pytest.mark.parametrize("keyword", CASES)
def test_a_keyword_is_held_or_checked(keyword: str) -> None:
    case = CASES[keyword]
    specification = tool(case.schema, **{"$defs": {"n": {"type": "integer"}}})
    grammar = compile_grammar(TOKENIZER, tools=[specification], tool_choice="required")
    assert accepts(grammar, call(case.fits))
    assert fits(specification, case.fits)
    assert not fits(specification, case.breaks)
    if case.how == "grammar":
        assert not accepts(grammar, call(case.breaks))
        assert grammar.left_to_check == ()
    else:
        assert accepts(grammar, call(case.breaks))
        name = {"then": "if", "else": "if", "minContains": "contains", "maxContains": "contains"}.get(keyword, keyword)
        assert grammar.left_to_check == (f"the tool f: {name} of a",)


@pytest.mark.parametrize("keyword", CASES)
def test_the_verdict_is_that_of_another_validator(keyword: str) -> None:
    case = CASES[keyword]
    draft = (
        DRAFT_7 if keyword in ("additionalItems", "dependencies") else "https://json-schema.org/draft/2020-12/schema"
    )
    schema = {"$schema": draft, "$defs": {"n": {"type": "integer"}}, **case.schema}
    validator = jsonschema_rs.validator_for(schema, validate_formats=True)
    assert validator.is_valid(case.fits)
    assert not validator.is_valid(case.breaks)


@pytest.mark.parametrize("name", OLD)
@pytest.mark.parametrize("named", [True, False])
def test_older_drafts_are_understood_whether_they_are_named_or_not(name: str, named: bool) -> None:
    draft, schema, right, wrong = OLD[name]
    anchor = {"id": "#n"} if draft == DRAFT_4 else {"$id": "#n"}
    definitions = {"n": {**anchor, "type": "integer"}, "m": {"type": "integer"}}
    if not named and ("anchor" in name or "(draft 7)" in name or "id" in name):
        definitions["n"] = {"$anchor": "n", "type": "integer"}
        if "beside" in name:
            pytest.skip("without a draft the newest counts, in which both hold")
    more: dict[str, Any] = {"definitions": definitions, **({"$schema": draft} if named else {})}
    specification = tool(schema, **more)
    grammar = compile_grammar(TOKENIZER, tools=[specification], tool_choice="required")
    assert accepts(grammar, call(right))
    assert not accepts(grammar, call(wrong))
    assert fits(specification, right)
    assert not fits(specification, wrong)


@pytest.mark.parametrize(
    ("schema", "note", "right", "wrong"),
    [
        ({"type": "string", "pattern": r"^(?=.*\d)[a-z\d]{3,}$"}, "pattern of a", "ab1", "abc"),
        ({"type": "string", "pattern": r"(?<q>['\"]).*\k<q>"}, "pattern of a", "'x'", "'x\""),
        ({"type": "string", "format": "regex"}, "format regex of a", "a+", "("),
        ({"type": "number", "minimum": -1e300}, "minimum of a", 1, -1.5e300),
        (
            {"type": "object", "patternProperties": {"^x": {"type": "integer"}, "^xy": {"minimum": 3}}},
            "patternProperties of a",
            {"xy": 3},
            {"xy": 2},
        ),
        ({"type": "array", "items": {"not": {"const": 1}}}, "not of a[]", [2], [1]),
    ],
)
def test_what_no_grammar_can_hold_of_a_keyword_is_checked(
    schema: dict[str, Any], note: str, right: Any, wrong: Any
) -> None:
    grammar = compile_grammar(TOKENIZER, tools=[tool(schema)], tool_choice="required")
    assert grammar.left_to_check == (f"the tool f: {note}",)
    assert accepts(grammar, call(right))
    assert fits(tool(schema), right)
    assert not fits(tool(schema), wrong)


def test_one_tool_of_many_blocks_none_of_the_others() -> None:
    hard = tool({"type": "array", "uniqueItems": True, "items": {"not": {"type": "string"}}})
    easy = {"name": "g", "parameters": {"type": "object", "properties": {"b": {"type": "integer"}}}}
    grammar = compile_grammar(TOKENIZER, tools=[easy, hard])
    assert grammar.left_to_check == ("the tool f: uniqueItems of a, not of a[]",)
    assert accepts(grammar, '{"name": "g", "parameters": {"b": 1}}')
    assert not accepts(grammar, '{"name": "g", "parameters": {"b": "x"}}')


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "strin"}, 'properties.a.type is "strin", which isn\'t a type of JSON Schema'),
        ({"$ref": "#/$defs/none"}, "refers to '#/$defs/none', which it doesn't have"),
        ({"$ref": "https://example.org/a.json"}, "only references inside it can be followed"),
        ({"enum": []}, "nothing fits it"),
        ({"type": "string", "pattern": "("}, "the pattern '(' isn't a regular expression of ECMA 262"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "nothing fits it"),
    ],
)
def test_what_is_no_schema_is_refused_with_the_tools_name(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(RequestError) as caught:
        compile_grammar(TOKENIZER, tools=[tool(schema)])
    message = str(caught.value)
    assert message.startswith("the parameters of the tool f can't be used: ")
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("schema", "open_value"),
    [
        ({"type": "object", "properties": {"b": {}}}, None),
        ({"type": "object", "properties": {"b": {}}, "additionalProperties": True}, {"z": 1}),
        ({"type": "object", "properties": {"b": {}}, "patternProperties": {"^z": {}}}, {"z": 1}),
        ({"type": "object", "properties": {"b": {}}, "required": ["z"]}, {"z": 1}),
        ({"type": "object"}, {"z": 1}),
        ({"allOf": [{"properties": {"b": {}}}, {"properties": {"z": {}}}], "type": "object"}, {"b": 1, "z": 1}),
        ({"type": "object", "properties": {"b": {}}, "anyOf": [{"required": ["b"]}]}, None),
        ({"type": "object", "properties": {"b": {}}, "anyOf": [{"properties": {"z": {}}}]}, {"z": 1}),
    ],
)
def test_objects_are_closed_unless_the_schema_says_that_there_is_more(schema: dict[str, Any], open_value: Any) -> None:
    grammar = compile_grammar(TOKENIZER, schema=schema)
    value = open_value or {"b": 1, "z": 1}
    assert accepts(grammar, json.dumps(value)) == (open_value is not None)
    assert accepts(grammar, json.dumps({"b": 1, "z": 1} if "required" in schema else {"b": 1}))
