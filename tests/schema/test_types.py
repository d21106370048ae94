"""Types with limits, named tuples and strict models; judged by pydantic's own schemas and instances."""

import datetime
import enum
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import pytest
from annotated_types import Ge, Len, MultipleOf
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from llama3_mlx import RequestError, StructureError, call_tool, parse_result, tool_spec
from llama3_mlx.schema.from_types import type_schema


class Point(NamedTuple):
    """A place."""

    x: int
    label: str = "here"


class Level(enum.Enum):
    HIGH = "high"


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    day: datetime.date
    level: Level
    pair: tuple[int, str]


def without_titles(schema: Any) -> Any:
    if isinstance(schema, list):
        return [without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: without_titles(value) for key, value in schema.items() if key not in ("title", "default")}


@pytest.mark.parametrize(
    "kind",
    [
        Annotated[int, Field(ge=1, le=5, description="How many")],
        Annotated[float, Field(gt=0, lt=1)],
        Annotated[str, Field(min_length=2, max_length=4, pattern="^a")],
        Annotated[list[str], Field(min_length=1, max_length=3)],
        Annotated[int, Ge(3), MultipleOf(2)],
        Annotated[list[int], Len(1, 2)],
        Annotated[dict[str, int], Field(min_length=1)],
        list[Annotated[int, Field(ge=1)]],
        Annotated[int, Field(ge=1)] | None,
        Point,
    ],
)
def test_limits_have_pydantics_schema(kind: Any) -> None:
    assert type_schema(kind) == without_titles(TypeAdapter(kind).json_schema())


@dataclass
class Order:
    """An order."""

    count: Annotated[int, Field(ge=1, le=5, description="How many")]
    at: Point


def book(count: Annotated[int, Field(ge=1, le=5)], names: Annotated[list[str], Field(min_length=1)]) -> str:
    """Book seats."""
    return f"{count} for {', '.join(names)}"


@pytest.mark.parametrize(
    ("schema", "text", "words"),
    [
        ({"minimum": 0, "exclusiveMinimum": True}, "0", "must be over 0, not 0"),
        ({"maximum": 5, "exclusiveMaximum": True}, "5", "must be under 5, not 5"),
        ({"minimum": 0, "exclusiveMinimum": False}, "-1", "must be at least 0, not -1"),
    ],
)
def test_bounds_of_draft_4_are_told_as_they_are(schema: dict[str, object], text: str, words: str) -> None:
    with pytest.raises(StructureError, match=words):
        parse_result(schema, text)


def test_limits_hold_in_tools_and_dataclasses() -> None:
    parameters = tool_spec(book)["function"]["parameters"]["properties"]
    assert parameters["count"] == {"type": "integer", "minimum": 1, "maximum": 5}
    assert call_tool(book, {"count": 2, "names": ["Ada"]}) == "2 for Ada"
    with pytest.raises(RequestError, match=r"book\.count must be at most 5, not 6"):
        call_tool(book, {"count": 6, "names": ["Ada"]})
    with pytest.raises(RequestError, match=r"book\.names must have at least 1 items, not 0"):
        call_tool(book, {"count": 1, "names": []})
    assert type_schema(Order)["properties"]["count"]["description"] == "How many"
    assert parse_result(Order, '{"count": 1, "at": [2]}') == Order(1, Point(2))
    with pytest.raises(StructureError, match=r"the answer\.count must be at least 1, not 0"):
        parse_result(Order, '{"count": 0, "at": [2, "x"]}')
    with pytest.raises(StructureError, match=r"the answer\.at must be an array of 1 to 2"):
        parse_result(Order, '{"count": 1, "at": []}')


def test_strict_models_take_what_json_has_for_their_types() -> None:
    text = '{"day": "2024-02-29", "level": "high", "pair": [1, "x"]}'
    assert parse_result(Strict, text) == Strict.model_validate_json(text)
    with pytest.raises(StructureError, match=r"the answer\.pair\[0\]"):
        parse_result(Strict, text.replace("1", '"1"'))


def test_an_answer_that_does_not_fit_comes_with_the_error() -> None:
    with pytest.raises(StructureError) as caught:
        parse_result(Order, '{"count": 0')
    assert caught.value.text == '{"count": 0'
    with pytest.raises(StructureError) as caught:
        parse_result({"type": "integer"}, '"x"')
    assert caught.value.text == '"x"'
