"""Grammars whose texts are calls of tools: `{"name": …, "parameters": …}` with arguments held to each tool's schema.

Source of the format: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1 (JSON based tool calling).
"""

import json
from collections.abc import Mapping, Sequence

from ..errors import RequestError
from ..json_types import JsonMapping, JsonObject
from ..schema.constrainable import Constrainable
from ..tools.functions import Tool, tool_specs
from ..tools.parser import PYTHON_TAG
from .json_grammar import check_compiles, constrainable, with_options

ToolChoice = str | JsonMapping

# Text that the parser of calls would take for a call in JSON begins with a brace.
_TEXT = r"TEXT: /([ \t\r\n]*[^{ \t\r\n](.|\n)*)?/"


def tool_grammar(
    tools: Sequence[Tool], choice: ToolChoice, *, several: bool, tagged: bool, answer: JsonMapping | None = None
) -> tuple[str, list[str]]:
    """Return the Lark grammar of an answer that may or must call tools, and what it can't hold of the tools' schemas.

    `choice` is "auto" (an answer, or calls), "required" (calls), a tool's name or OpenAI's object with it. `several`
    allows several calls, `tagged` a `<|python_tag|>` before them. `answer` is the schema, as llguidance takes it, of an
    answer that calls nothing; without it such an answer is free text. Raises RequestError.
    """
    specs = tool_specs(tools)
    if not specs:
        raise RequestError("tools is empty: give at least one tool")
    name = chosen_name(choice)
    names = [spec["function"]["name"] for spec in specs]
    if name is not None and name not in names:
        raise RequestError(f"tool_choice is {name!r:.80}; the tools are {', '.join(names)}")
    schema, notes = call_schema([spec for spec in specs if name in (None, spec["function"]["name"])])
    lines = [
        "calls: call" + (" (/; ?|\\n/ call)*" if several else ""),
        f"call: %json {json.dumps(schema, ensure_ascii=False)}",
    ]
    starts = ["calls"]
    if choice == "auto" and answer is not None:
        starts.append("answer")
        lines.append(f"answer: %json {json.dumps(answer, ensure_ascii=False)}")
    elif choice == "auto":
        starts += ["TEXT", f"TEXT {PYTHON_TAG} calls"] if tagged else ["TEXT"]
        lines.append(_TEXT)
    return "\n".join(["%llguidance {}", f"start: {' | '.join(starts)}", *lines]), notes


def chosen_name(choice: ToolChoice) -> str | None:
    """Return the name of the tool that must be called, None for "auto" and "required"."""
    if isinstance(choice, Mapping):
        function = choice.get("function", choice)
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str):
            raise RequestError(f"tool_choice names no tool: {choice!r:.80}")
        return name
    if not isinstance(choice, str):
        raise RequestError(f"tool_choice must be 'auto', 'required' or a tool's name, not {choice!r:.80}")
    return None if choice in ("auto", "required") else choice


def call_schema(specs: Sequence[JsonMapping]) -> tuple[JsonObject, list[str]]:
    """Return the schema of one call of any of the tools, and what it leaves out of each tool's own.

    Raises RequestError naming the tool whose schema can't be used.
    """
    collected, calls = constrainable(), []
    for number, spec in enumerate(specs):
        function, name = spec["function"], spec["function"]["name"]
        try:
            parameters = _parameters(collected, f"t{number}_", function["parameters"])
            check_compiles("it", parameters, collected.definitions)
        except RequestError as error:
            raise RequestError(f"the parameters of the tool {name} can't be used: {error}") from None
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": name}, "parameters": parameters},
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
        )
    notes = [
        f"the tool {spec['function']['name']}: {', '.join(left_out)}"
        for spec, left_out in zip(specs, collected.left_out.values(), strict=True)
        if left_out
    ]
    return with_options({"anyOf": calls}, collected.definitions), notes


def _parameters(collected: Constrainable, key: str, parameters: JsonMapping) -> JsonObject:
    """Return the parameters of a tool; it has no others than those it lists, unless it says so."""
    schema = dict(parameters)
    if "$ref" not in schema:
        schema = {"type": "object", "properties": {}, **schema}
    return collected.add(key, schema)
