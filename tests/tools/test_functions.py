"""Functions as tools: their schemas, arguments checked and converted, results as text."""

import asyncio
import datetime
import enum
import json
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, TypedDict

import jsonschema
import pytest
from pydantic import BaseModel
from pydantic import Field as PydanticField
from transformers.utils import get_json_schema

from llama3_mlx.chat.dialog import Dialog
from llama3_mlx.errors import RequestError
from llama3_mlx.schema.docstrings import read_docstring
from llama3_mlx.schema.from_types import type_schema
from llama3_mlx.schema.to_types import typed_value
from llama3_mlx.tools.functions import (
    acall_tool,
    call_tool,
    check_arguments,
    result_text,
    tool_name,
    tool_spec,
    tool_specs,
)

from ..chat.test_dialog import make_dialog, reference_ids, trl_template


class Unit(enum.Enum):
    CELSIUS = "celsius"
    KELVIN = "kelvin"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Place:
    """A place.

    Attributes:
        name: What it is called.
        position: Latitude and longitude.
    """

    name: str
    position: tuple[float, float]
    tags: list[str] = field(default_factory=list)


@dataclass
class Tree:
    value: int
    children: "list[Tree]" = field(default_factory=list)


class Person(BaseModel):
    name: str
    age: int = PydanticField(ge=0)
    friends: "list[Person]" = []


class Options(TypedDict, total=False):
    depth: int


UserId = NewType("UserId", int)


def weather(city: str, days: int = 3, unit: Literal["C", "F"] = "C") -> str:
    """Tell the weather.

    Args:
        city: The city to
            look at
        days: How many days ahead
        unit: The unit of temperatures

    Returns:
        A sentence.
    """
    return f"{city} {days} {unit}"


def plan(
    place: Place,
    when: datetime.date,
    unit: Unit = Unit.CELSIUS,
    level: Level | None = None,
    path: Annotated[Sequence[tuple[int, int]], "Points on the way"] = (),
    extra: Mapping[str, Any] | None = None,
    *,
    person: Person | None = None,
    options: Options | None = None,
    user: UserId = UserId(0),
) -> dict[str, Any]:
    """Plan a way.

    With two paragraphs.
    """
    return locals()


def everything(a: str, b: int, c: float, d: bool, e: list[int], f: dict[str, float], g: list[list[str]]) -> None:
    """Take everything.

    Args:
        a: A
        b: B
        c: C
        d: D
        e: E
        f: F
        g: G
    """


def reference_spec(function: Callable[..., Any]) -> dict[str, Any]:
    """What transformers makes of a function, without its own key for the type that comes back."""
    spec: dict[str, Any] = get_json_schema(function)
    del spec["function"]["return"]
    return spec


def test_simple_functions_have_the_schema_of_transformers() -> None:
    assert tool_spec(everything) == reference_spec(everything)


def test_defaults_literals_and_continued_descriptions() -> None:
    assert tool_spec(weather) == {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tell the weather.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The city to look at"},
                    "days": {"type": "integer", "description": "How many days ahead", "default": 3},
                    "unit": {
                        "type": "string",
                        "enum": ["C", "F"],
                        "description": "The unit of temperatures",
                        "default": "C",
                    },
                },
                "required": ["city"],
            },
        },
    }


def test_every_kind_of_type_has_a_valid_schema() -> None:
    spec = tool_spec(plan)["function"]
    parameters = spec["parameters"]
    jsonschema.Draft202012Validator.check_schema(parameters)
    json.dumps(parameters)
    assert spec["description"] == "Plan a way.\n\nWith two paragraphs."
    assert parameters["required"] == ["place", "when"]
    properties = parameters["properties"]
    assert properties["when"] == {"type": "string", "format": "date"}
    assert properties["unit"] == {"type": "string", "enum": ["celsius", "kelvin"]}
    assert properties["level"] == {"anyOf": [{"enum": [1, 2], "type": "integer"}, {"type": "null"}]}
    assert properties["path"]["description"] == "Points on the way"
    assert properties["place"]["properties"]["name"] == {"type": "string", "description": "What it is called."}
    assert properties["place"]["additionalProperties"] is False
    assert properties["place"]["required"] == ["name", "position"]
    assert properties["user"] == {"type": "integer", "default": 0}


VALUES: dict[str, Any] = {
    "place": {"name": "Bern", "position": [46.9, 7]},
    "when": "2026-11-23",
    "unit": "kelvin",
    "level": 2,
    "path": [[1, 2], [3, 4]],
    "extra": {"a": [1]},
    "person": {"name": "Ada", "age": 36, "friends": [{"name": "Bob", "age": 1}]},
    "options": {"depth": 1},
    "user": 5,
}


def test_arguments_arrive_as_their_types() -> None:
    result = call_tool(plan, VALUES)
    assert result == {
        "place": Place("Bern", (46.9, 7.0)),
        "when": datetime.date(2026, 11, 23),
        "unit": Unit.KELVIN,
        "level": Level.HIGH,
        "path": [(1, 2), (3, 4)],
        "extra": {"a": [1]},
        "person": Person(name="Ada", age=36, friends=[Person(name="Bob", age=1)]),
        "options": {"depth": 1},
        "user": 5,
    }
    assert isinstance(result["level"], Level)
    jsonschema.validate(VALUES, tool_spec(plan)["function"]["parameters"])
    assert call_tool(weather, {"city": "Bern"}) == "Bern 3 C"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "plan lacks place, when"),
    ({**VALUES, "color": 1}, "plan has the unknown 'color'; accepted are place, when, unit"),
    ({**VALUES, "when": "tomorrow"}, "plan.when must be a date, not 'tomorrow'"),
    ({**VALUES, "unit": "F"}, "plan.unit is 'F'; accepted are 'celsius', 'kelvin'"),
    ({**VALUES, "level": True}, "plan.level is True"),
    ({**VALUES, "path": [[1, 2], [3]]}, r"plan.path\[1\] must be an array of 2, not \[3\]"),
    ({**VALUES, "path": "ab"}, "plan.path must be an array, not 'ab'"),
    ({**VALUES, "place": {"name": 1, "position": [1, 2]}}, "plan.place.name must be a text, not 1"),
    ({**VALUES, "person": {"name": "A", "age": -1}}, "plan.person.age: .*greater than or equal to 0, not -1"),
    ({**VALUES, "user": 1.5}, "plan.user must be an integer, not 1.5"),
    ({**VALUES, "options": {"wide": 1}}, "plan.options has the unknown 'wide'"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        call_tool(plan, arguments)
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match=message):
        check_arguments(plan, arguments)


def test_arguments_of_a_specification_are_checked_by_its_schema() -> None:
    spec = tool_spec(weather)
    check_arguments(spec, {"city": "Bern"})
    with pytest.raises(RequestError, match="weather lacks city"):
        check_arguments(spec, {})
    with pytest.raises(RequestError, match=r'weather\.days must be of type integer, not "3"'):
        check_arguments(spec, {"city": "Bern", "days": "3"})
    with pytest.raises(RequestError, match="only Python functions can be run"):
        call_tool(spec, {"city": "Bern"})


def test_specifications_come_through_in_every_shape() -> None:
    function = {"name": "f", "description": "x", "parameters": {"type": "object", "properties": {}}}
    whole = {"type": "function", "function": function}
    assert tool_spec(whole) == whole
    assert tool_spec(function) == whole
    assert tool_spec({**function, "type": "function", "strict": None}) == whole
    anthropic = {"name": "f", "description": "x", "input_schema": function["parameters"]}
    assert tool_spec(anthropic) == whole
    assert tool_spec({"name": "f"})["function"]["parameters"] == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        (3, "must be a function or a specification, not 3"),
        ({}, "has the name None"),
        ({"name": "a b"}, "has the name 'a b'"),
        ({"type": "web_search"}, "has the type 'web_search'"),
        ({"name": "f", "function": 1}, "must be an object, not 1"),
        ({"name": "f", "color": 1}, "has the unknown key 'color'"),
        ({"name": "f", "description": 1}, "must be text, not 1"),
        ({"name": "f", "parameters": []}, r"must be a JSON schema, not \[\]"),
        ({"name": "f", "parameters": {"type": "string"}}, "accepted is 'object'"),
        ({"name": "f", "parameters": {"required": "a"}}, "must be a list of names, not 'a'"),
        (lambda x: x, "can't be called '<lambda>'"),
    ],
)
def test_wrong_tools_are_refused(tool: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        tool_spec(tool)


def test_functions_that_no_model_can_call_are_refused() -> None:
    def unhinted(x) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
        pass

    def several(*x: int) -> None:
        pass

    def complicated(x: Callable[[], int]) -> None:
        pass

    def keyed(x: dict[int, str]) -> None:
        pass

    def unknown(x: "Nowhere") -> None:  # type: ignore[name-defined] # noqa: F821
        pass

    messages: dict[Any, str] = {
        unhinted: "parameter x of unhinted has no type hint",
        several: r"several takes \*x: int: a tool's parameters must have names",
        complicated: "x of complicated has the type Callable, which has no JSON schema",
        keyed: "x of keyed has keys of the type",
        unknown: "type hints of unknown can't be resolved",
    }
    for function, message in messages.items():
        with pytest.raises(RequestError, match=message):
            tool_spec(function)


def test_methods_partials_objects_and_classes_are_tools() -> None:
    class Counter:
        def add(self, by: int) -> int:
            """Add."""
            return by + 1

        def __call__(self, by: int) -> int:
            """Call."""
            return by + 2

    counter = Counter()
    assert tool_spec(counter.add)["function"]["parameters"]["required"] == ["by"]
    assert call_tool(counter.add, {"by": 1}) == 2
    assert (tool_name(counter), call_tool(counter, {"by": 1})) == ("Counter", 3)
    bound = partial(weather, "Bern")
    assert tool_spec(bound)["function"]["parameters"]["required"] == []
    assert call_tool(bound, {"days": 1}) == "Bern 1 C"
    assert call_tool(Place, {"name": "x", "position": [1, 2]}) == Place("x", (1.0, 2.0))


def test_two_tools_of_one_name_are_refused() -> None:
    assert [spec["function"]["name"] for spec in tool_specs([weather, everything])] == ["weather", "everything"]
    with pytest.raises(RequestError, match="two tools are called weather"):
        tool_specs([weather, tool_spec(weather)])
    with pytest.raises(RequestError, match="tools must be a list"):
        tool_specs("weather")  # type: ignore[arg-type]


async def _later(city: str) -> str:
    await asyncio.sleep(0)
    return city.upper()


def test_async_functions_run_with_and_without_an_event_loop() -> None:
    assert call_tool(_later, {"city": "x"}) == "X"

    def here() -> int:
        return threading.get_ident()

    async def inside() -> list[Any]:
        return [call_tool(_later, {"city": "x"}), await acall_tool(_later, {"city": "y"}), await acall_tool(here, {})]

    one, two, thread = asyncio.run(inside())
    assert (one, two) == ("X", "Y")
    assert thread != threading.get_ident()


def test_results_become_text() -> None:
    assert result_text("25 C") == "25 C"
    assert result_text({"ä": [1, None]}) == '{"ä": [1, null]}'
    assert json.loads(result_text([Place("x", (1, 2)), Person(name="A", age=1)])) == [
        {"name": "x", "position": [1, 2], "tags": []},
        {"name": "A", "age": 1, "friends": []},
    ]
    assert result_text({"when": datetime.date(2026, 1, 2), "unit": Unit.KELVIN, "set": {1}}) == (
        '{"when": "2026-01-02", "unit": "Unit.KELVIN", "set": [1]}'
    )


def test_types_that_contain_themselves_are_written_as_references() -> None:
    for kind in (Tree, Person):
        schema = type_schema(kind)
        jsonschema.Draft202012Validator.check_schema(schema)
        assert set(schema["$defs"]) == {kind.__name__}
    value = {"value": 1, "children": [{"value": 2, "children": []}]}
    jsonschema.validate(value, type_schema(Tree))
    assert typed_value(Tree, value) == Tree(1, [Tree(2)])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"value": 1, "children": [{"value": "2"}]}, type_schema(Tree))


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int | str, "1", "1"),
        (float | int, 1, 1),
        (float, 1, 1.0),
        (int, 2.0, 2),
        (set[int], [1, 1], {1}),
        (frozenset[str], ["a"], frozenset("a")),
        (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
        (list[Place | None], [None], [None]),
        (Literal[1, "a", None], None, None),
        (uuid.UUID, "12345678-1234-5678-1234-567812345678", uuid.UUID("12345678123456781234567812345678")),
        (datetime.datetime, "2026-01-02T03:04:05+00:00", datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)),
    ],
)
def test_values_become_their_types_and_fit_their_schemas(kind: Any, value: Any, expected: Any) -> None:
    found = typed_value(kind, value)
    assert (found, type(found)) == (expected, type(expected))
    jsonschema.validate(value, type_schema(kind))


def test_docstrings_of_other_layouts_are_read() -> None:
    def documented() -> None:
        """Do it.

        Note:
            Nothing to see.

        Args:
            a (int, optional): First: with a colon.
            **b: Second

              with a gap.
        """

    assert read_docstring(documented) == ("Do it.", {"a": "First: with a colon.", "b": "Second with a gap."})
    assert read_docstring(lambda: None) == ("", {})


@pytest.mark.parametrize("template", ["llama3_1", "llama3_2", "own"])
def test_functions_render_as_transformers_renders_them(llama3_folder: Path, template: str) -> None:
    from llama3_mlx.chat.llama3_templates import LLAMA_3_1

    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Go."}]
    source = LLAMA_3_1 if template == "own" else trl_template(template)
    reference = trl_template("llama3_1" if template == "own" else template)
    dialog: Dialog = make_dialog(llama3_folder, source)
    for in_user in (True, False):
        options: dict[str, Any] = {"date_string": "23 Nov 2026", "tools_in_user_message": in_user}
        expected = reference_ids(llama3_folder, reference, messages, tools=[reference_spec(everything)], **options)
        assert dialog.encode(messages, tools=tool_specs([everything]), **options) == expected
