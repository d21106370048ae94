"""Tools that a model can call: Python functions with type hints, or specifications in OpenAI's shape.

Source of the shape: https://platform.openai.com/docs/guides/function-calling; Llama 3.1's template takes the same.
"""

import asyncio
import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from ..errors import RequestError
from ..json_types import JsonMapping, JsonObject, JsonValue
from ..schema.docstrings import read_docstring
from ..schema.from_types import Field, hints_of, object_schema
from ..schema.to_types import typed_fields
from ..schema.type_kinds import is_pydantic

Tool = Callable[..., Any] | JsonMapping

_NAME = re.compile(r"[\w.:/-]{1,128}")
_FUNCTION_KEYS = ("name", "description", "parameters", "strict")


def tool_spec(tool: Tool) -> JsonObject:
    """Return the specification of a tool, `{"type": "function", "function": {name, description, parameters}}`.

    A function's comes from its type hints and docstring (Google's `Args:`); parameters with a default aren't
    required. A specification, bare or in OpenAI's or Anthropic's shape, is checked and kept as it is. Raises
    RequestError.
    """
    if isinstance(tool, Mapping):
        return {"type": "function", "function": _checked(tool)}
    if not callable(tool):
        raise RequestError(f"a tool must be a function or a specification, not {tool!r:.80}")
    name = tool_name(tool)
    description, _ = read_docstring(_documented(tool))
    parameters = object_schema(_parameters(tool), name)
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def tool_specs(tools: Iterable[Tool]) -> list[JsonObject]:
    """Return the specifications of several tools; raises RequestError if two have one name."""
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Iterable):
        raise RequestError(f"tools must be a list of functions or specifications, not {tools!r:.80}")
    specs = [tool_spec(tool) for tool in tools]
    names = [spec["function"]["name"] for spec in specs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"two tools are called {twice}: give each a name of its own")
    return specs


def tool_name(tool: Tool) -> str:
    """Return the name under which a model calls the tool."""
    if isinstance(tool, Mapping):
        return str(_checked(tool)["name"])
    name = getattr(_documented(tool), "__name__", None) or type(tool).__name__
    if not _NAME.fullmatch(name):
        raise RequestError(f"a tool can't be called {name!r:.80}: give it a name with def, or a specification")
    return name


def call_tool(tool: Tool, arguments: JsonMapping) -> Any:
    """Check the arguments, run the function with them and return what it returns; an async function runs to its end.

    Dataclasses, enums, pydantic models, tuples and dates arrive as such. Raises RequestError for arguments that
    don't fit, and for a specification, which can't be run.
    """
    result = _run(tool, arguments)
    if not inspect.isawaitable(result):
        return result
    # In a thread of its own, since this one may be running an event loop.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _awaited(result)).result()


async def acall_tool(tool: Tool, arguments: JsonMapping) -> Any:
    """Do what `call_tool` does in an event loop; functions that aren't async run in a thread."""
    function = _function(tool)
    if inspect.iscoroutinefunction(_documented(function)):
        return await _run(function, arguments)
    result = await asyncio.to_thread(_run, function, arguments)
    return await result if inspect.isawaitable(result) else result


def check_arguments(tool: Tool, arguments: JsonMapping) -> None:
    """Check the arguments of a call; raises RequestError naming what doesn't fit."""
    name = tool_name(tool)
    if isinstance(tool, Mapping):
        from ..schema.check import check_json

        check_json(tool_spec(tool)["function"]["parameters"], arguments, name)
    else:
        typed_fields(_parameters(tool), arguments, name)


def result_text(result: Any) -> str:
    """Return a tool's result as the text of a message: texts as they are, everything else as JSON."""
    if isinstance(result, str):
        return result
    try:
        return json.dumps(result, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError):
        return str(result)


def _plain(value: JsonValue) -> JsonValue:
    if is_pydantic(type(value)):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return list(value) if isinstance(value, set | frozenset) else str(value)


def _run(tool: Tool, arguments: JsonMapping) -> Any:
    function = _function(tool)
    return function(**typed_fields(_parameters(function), arguments, tool_name(function)))


def _function(tool: Tool) -> Callable[..., Any]:
    if isinstance(tool, Mapping) or not callable(tool):
        raise RequestError(f"the tool {tool_name(tool)} is a specification: only Python functions can be run")
    return tool


async def _awaited(result: Any) -> Any:
    return await result


def _documented(tool: Any) -> Any:
    """Return what carries the name, docstring and hints: the function inside a partial, an object's `__call__`."""
    while isinstance(tool, partial):
        tool = tool.func
    if inspect.isroutine(tool) or isinstance(tool, type) or hasattr(tool, "__wrapped__"):
        return inspect.unwrap(tool)
    return tool


def _parameters(function: Callable[..., Any]) -> dict[str, Field]:
    """Return the parameters of a function; raises RequestError for what a model can't give by name."""
    name, documented = tool_name(function), _documented(function)
    plain = inspect.isroutine(documented) or isinstance(documented, type)
    hints = hints_of(documented if plain else type(documented).__call__, name)
    if isinstance(documented, type):
        hints = {**hints_of(documented.__dict__.get("__init__"), name), **hints}
    _, texts = read_docstring(documented)
    fields = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise RequestError(f"{name} takes {parameter}: a tool's parameters must have names")
        if parameter.name not in hints:
            raise RequestError(f"the parameter {parameter.name} of {name} has no type hint: give it one")
        required = parameter.default is parameter.empty
        default = None if required else parameter.default
        fields[parameter.name] = Field(hints[parameter.name], texts.get(parameter.name, ""), required, default)
    return fields


def _checked(spec: JsonMapping) -> JsonObject:
    """Return the function of a specification, with parameters."""
    if spec.get("type", "function") != "function":
        raise RequestError(f"a tool has the type {spec['type']!r:.80}; accepted is 'function'")
    function = spec.get("function", spec)
    if not isinstance(function, Mapping):
        raise RequestError(f"a tool's function must be an object, not {function!r:.80}")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RequestError(f"a tool has the name {name!r:.80}; accepted are letters, digits and . _ - : / up to 128")
    function = {key: value for key, value in function.items() if value is not None and key != "type"}
    if "input_schema" in function:
        function["parameters"] = function.pop("input_schema")
    unknown = [key for key in function if key not in _FUNCTION_KEYS]
    if unknown:
        raise RequestError(
            f"the tool {name} has the unknown key {unknown[0]!r:.80}; accepted: {', '.join(_FUNCTION_KEYS)}"
        )
    if not isinstance(function.get("description", ""), str):
        raise RequestError(f"the description of the tool {name} must be text, not {function['description']!r:.80}")
    return {**function, "parameters": _checked_parameters(name, function.get("parameters", {}))}


def _checked_parameters(name: str, parameters: JsonValue) -> JsonObject:
    where = f"the parameters of the tool {name}"
    if not isinstance(parameters, Mapping):
        raise RequestError(f"{where} must be a JSON schema, not {parameters!r:.80}")
    if parameters.get("type", "object") != "object":
        raise RequestError(f"{where} are of type {parameters['type']!r:.80}; accepted is 'object'")
    properties, required = parameters.get("properties", {}), parameters.get("required", [])
    if not isinstance(properties, Mapping):
        raise RequestError(f"the properties of {where} must be an object, not {properties!r:.80}")
    if not isinstance(required, list) or not all(isinstance(each, str) for each in required):
        raise RequestError(f"required in {where} must be a list of names, not {required!r:.80}")
    return dict(parameters) if parameters else {"type": "object", "properties": {}}
