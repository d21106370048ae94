"""Grammars whose texts are calls of tools: `{"name": …, "parameters": …}` with arguments held to each tool's schema.

Source of the form: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1 (JSON based tool calling).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RequestError
from ..schema.dates import with_strict_dates
from ..tools.functions import Tool, tool_specs
from ..tools.parser import PYTHON_TAG

ToolChoice = str | Mapping[str, Any]

_BODIES = ("enum", "const", "default", "examples")
# Text that the parser of calls would take for a call in JSON begins with a brace.
_TEXT = r"TEXT: /([ \t\r\n]*[^{ \t\r\n](.|\n)*)?/"


def tool_grammar(
    tools: Sequence[Tool], choice: ToolChoice, options: Mapping[str, Any], *, several: bool, tagged: bool
) -> str:
    """Return the Lark grammar of an answer that may or must call tools.

    `choice` is "auto" (text, or calls), "required" (calls), a tool's name or OpenAI's object with it. `several` allows
    several calls, `tagged` a `<|python_tag|>` before them. `options` are llguidance's for JSON. Raises RequestError.
    """
    specs = tool_specs(tools)
    if not specs:
        raise RequestError("tools is empty: give at least one tool")
    name = chosen_name(choice)
    names = [spec["function"]["name"] for spec in specs]
    if name is not None and name not in names:
        raise RequestError(f"tool_choice is {name!r:.80}; the tools are {', '.join(names)}")
    kept = [spec for spec in specs if name in (None, spec["function"]["name"])]
    schema = {"x-guidance": dict(options), **with_strict_dates(call_schema(kept))}
    starts = ["calls"]
    if choice == "auto":
        starts += ["TEXT", f"TEXT {PYTHON_TAG} calls"] if tagged else ["TEXT"]
    lines = [
        "%llguidance {}",
        f"start: {' | '.join(starts)}",
        "calls: call" + (" (/; ?|\\n/ call)*" if several else ""),
        f"call: %json {json.dumps(schema, ensure_ascii=False)}",
    ]
    return "\n".join([*lines, _TEXT] if choice == "auto" else lines)


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


def call_schema(specs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the schema of one call of any of the tools. Each tool's schema stands under `$defs`, as do its own."""
    calls, definitions = [], {}
    for number, spec in enumerate(specs):
        function = spec["function"]
        place = f"t{number}"
        definitions[place] = _moved(_closed(function["parameters"]), f"#/$defs/{place}")
        parameters = {"$ref": f"#/$defs/{place}"}
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, "parameters": parameters},
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
        )
    return {"anyOf": calls, "$defs": definitions}


def _closed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters without room for arguments that the tool doesn't list, unless it says so."""
    return {"type": "object", "additionalProperties": False, "properties": {}, **parameters}


def _moved(schema: Any, place: str) -> Any:
    """Return a schema whose references to its own root lead to `place`."""
    if isinstance(schema, list):
        return [_moved(item, place) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {key: value if key in _BODIES else _moved(value, place) for key, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = place + reference[1:]
    return moved
