"""Our check of JSON values against jsonschema_rs, a validator in Rust that shares no code with it."""

import random
from typing import Any

import jsonschema
import jsonschema_rs
import pytest

from llama3_mlx.errors import RequestError
from llama3_mlx.schema.check import check_json
from llama3_mlx.schema.drafts import is_plain
from llama3_mlx.schema.keywords import ANNOTATIONS, CHECKED, HELD

from ..support.random_schemas import random_schema, random_value


def accepted(schema: Any, value: Any) -> bool:
    try:
        check_json(schema, value)
    except RequestError:
        return False
    return True


def without_formats(schema: Any) -> Any:
    if isinstance(schema, list):
        return [without_formats(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: without_formats(value) for key, value in schema.items() if key != "format"}


def test_the_verdict_is_that_of_another_validator() -> None:
    chance = random.Random(7)
    verdicts = {True: 0, False: 0}
    for _ in range(1500):
        # Formats that no grammar needs as a pattern aren't checked.
        schema = without_formats(random_schema(chance))
        validator = jsonschema_rs.Draft202012Validator(schema)
        for _ in range(8):
            value = random_value(chance, schema)
            expected = validator.is_valid(value)
            assert accepted(schema, value) == expected, (schema, value)
            verdicts[expected] += 1
    assert min(verdicts.values()) > 1500


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"enum": [1]}, True),
        ({"enum": [1]}, 1.0),
        ({"const": {"a": [1, 2.0]}}, {"a": [1.0, 2]}),
        ({"enum": [[False]]}, [0]),
        ({"uniqueItems": True}, [1, True]),
        ({"uniqueItems": True}, [{"a": 1}, {"a": 1.0}]),
        ({"multipleOf": 0.0001}, 0.0075),
        ({"multipleOf": 0.0001}, 0.00751),
        ({"multipleOf": 0.01}, 1.005),
        ({"type": "integer"}, 3.0),
        ({"type": ["integer", "null"]}, False),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, 1),
        ({"oneOf": [{"type": "number"}, {"type": "string"}]}, 1),
        ({"not": {"type": "string"}}, "x"),
        ({"allOf": [{"minimum": 2}, {"maximum": 3}]}, 4),
        ({"patternProperties": {"^a": {"type": "string"}}, "additionalProperties": False}, {"ab": "x"}),
        ({"patternProperties": {"^a": {"type": "string"}}, "additionalProperties": False}, {"b": "x"}),
        ({"prefixItems": [{"type": "string"}], "items": False}, ["x", 1]),
        ({"minProperties": 1, "maxProperties": 2}, {}),
        ({"minLength": 2}, "🦙"),
        (False, 1),
        ({"$defs": {"a/b": {"type": "string"}}, "$ref": "#/$defs/a~1b"}, 1),
    ],
)
def test_particular_cases_agree_too(schema: Any, value: Any) -> None:
    assert accepted(schema, value) == jsonschema_rs.Draft202012Validator(schema).is_valid(value)


def test_what_passes_for_a_schema_at_a_glance_is_one() -> None:
    """Judged by the metaschema of draft 2020-12, with every keyword and values of every kind."""
    keywords = [*HELD, *CHECKED, *ANNOTATIONS, "x-unknown"]
    values: list[Any] = [
        None,
        True,
        0,
        -1,
        1.5,
        "",
        "string",
        "x",
        [],
        ["x"],
        ["x", "x"],
        ["string", 1],
        {},
        {"a": {}},
        {"a": 1},
    ]
    values += [[{}], [True], [1], {"type": "x"}, {"type": "string"}]
    plain = 0
    for keyword in keywords:
        for value in values:
            if is_plain({keyword: value}):
                jsonschema.Draft202012Validator.check_schema({keyword: value})
                plain += 1
    assert plain > 100


def test_the_first_fault_is_named_with_its_place() -> None:
    schema = {"properties": {"people": {"items": {"properties": {"age": {"minimum": 0}}}}}}
    with pytest.raises(RequestError, match=r"the answer\.people\[1\]\.age must be at least 0, not -1"):
        check_json(schema, {"people": [{"age": 1}, {"age": -1}]})


def test_references_that_lead_nowhere_or_round_in_circles_are_refused() -> None:
    with pytest.raises(RequestError, match="which it doesn't have"):
        check_json({"$ref": "#/$defs/a"}, 1)
    with pytest.raises(RequestError, match="which it doesn't have"):
        check_json({"$ref": "https://example.org/a.json"}, 1)
    with pytest.raises(RequestError, match="goes on without end"):
        check_json({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, 1)
