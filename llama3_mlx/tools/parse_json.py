"""Reads tool calls written as JSON: bare objects, lists of them, and those between tags."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

from ..json_types import JsonValue
from .call import Incomplete, ParsedCalls, PendingText, ToolCall, ToolNames, without_surrogates

_FIRST_KEYS = frozenset(("type", "name", "function", "parameters", "arguments"))
_KEYS = _FIRST_KEYS | {"id"}
_CLOSING = "</function>"
TOOL_CALL_TAG, TOOL_CALL_END = "<tool_call>", "</tool_call>"
_FIRST_KEY = re.compile(r'\[?\s*\{\s*"([^"\\]*)"?')
_NAME = re.compile(r'\[?\s*\{\s*"name"\s*:\s*"([^"\\]*)(["\\]?)')
_OPEN = re.compile(r"\[?\s*(\{\s*)?\Z")
_TYPE = re.compile(r'\[?\s*\{\s*"type"\s*:\s*"([^"\\]*)')
_FUNCTION = re.compile(r"<function=([^>\s]*)(>?)")
_SPACE = re.compile(r"\s*")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} isn't valid JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def read_json_calls(held: PendingText, start: int) -> ParsedCalls | Incomplete | None:
    """Read a JSON object, or a list of objects, that is a call."""
    if not _may_be_call(held.text[start : start + 512], held.names):
        return None
    value, end = _decode(held.text, start) if held.closed or held.final else (None, None)
    if end is None:
        return held.more
    values = value if isinstance(value, list) else [value]
    calls = [_as_call(each, held.names) for each in values]
    known = tuple(call for call in calls if call is not None)
    return ParsedCalls(known, end) if known and len(known) == len(calls) else None


def read_function_tag(held: PendingText, start: int) -> ParsedCalls | Incomplete | None:
    """Read `<function=NAME>{…}</function>`; the closing tag may be missing, as models forget it."""
    text = held.text
    opened = _FUNCTION.match(text, start)
    if opened is None:
        return None
    name, whole = opened[1], bool(opened[2])
    if not whole:
        return held.more if opened.end() == len(text) and held.names.may_become(name) else None
    if name not in held.names:
        return None
    at = _after_space(text, opened.end())
    if text.startswith(_CLOSING, at):
        return ParsedCalls((ToolCall(name, {}),), at + len(_CLOSING))
    if _CLOSING.startswith(text[at:]):
        return held.more
    if not text.startswith("{", at):
        return None
    value, end = _decode(text, at)
    if end is None:
        return held.more
    closing = _after_space(text, end)
    if not held.final and _CLOSING.startswith(text[closing:]) and len(text) - closing < len(_CLOSING):
        return Incomplete()
    end = closing + len(_CLOSING) if text.startswith(_CLOSING, closing) else end
    return ParsedCalls((ToolCall(name, value),), end)


def read_tool_call_tag(held: PendingText, start: int) -> ParsedCalls | Incomplete | None:
    """Read `<tool_call>{"name": …, "arguments": …}</tool_call>`, which Hermes models write; the end may be missing."""
    text = held.text
    if not text.startswith(TOOL_CALL_TAG, start):
        return held.more if TOOL_CALL_TAG.startswith(text[start:]) else None
    at = _after_space(text, start + len(TOOL_CALL_TAG))
    if at == len(text):
        return held.more
    # The closing tag brings no bracket, so that the call before it is read again.
    found = read_json_calls(replace(held, closed=True), at)
    if not isinstance(found, ParsedCalls):
        return found
    closing = _after_space(text, found.end)
    if not held.final and TOOL_CALL_END.startswith(text[closing:]) and len(text) - closing < len(TOOL_CALL_END):
        return Incomplete()
    return ParsedCalls(
        found.calls, closing + len(TOOL_CALL_END) if text.startswith(TOOL_CALL_END, closing) else found.end
    )


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _may_be_call(beginning: str, names: ToolNames) -> bool:
    """Return whether a text that begins so may be a call: by its first key, and by the name if that is the first."""
    key = _FIRST_KEY.match(beginning)
    if key is None:
        return _OPEN.match(beginning) is not None
    if key.end() == len(beginning) and not key[0].endswith('"'):
        return any(known.startswith(key[1]) for known in _FIRST_KEYS)
    if key[1] not in _FIRST_KEYS and not (key.end() == len(beginning) and key[1] == ""):
        return False
    kind = _TYPE.match(beginning)
    if kind is not None:
        return "function".startswith(kind[1])
    name = _NAME.match(beginning)
    if name is None or name[2] == "\\":
        return True
    return name[1] in names if name[2] else names.may_become(name[1])


def _decode(text: str, start: int) -> tuple[Any, int | None]:
    """Return the JSON value at `start` and where it ends; None for the end of what is not whole, or is damaged."""
    if text.find("}", start) < 0:
        return None, None
    try:
        value, end = _DECODER.raw_decode(text, start)
        return without_surrogates(value), end
    except (ValueError, RecursionError):
        return None, None


def _as_call(value: JsonValue, names: ToolNames) -> ToolCall | None:
    """Return the call that an object is: keys of Meta's form or of OpenAI's and no others."""
    if not isinstance(value, Mapping) or not value.keys() <= _KEYS or value.get("type", "function") != "function":
        return None
    function = value.get("function")
    if isinstance(function, Mapping):
        return _as_call(function, names) if "name" not in value and function.get("function") is None else None
    if isinstance(function, str) and "name" not in value:
        value = {**value, "name": function}
    elif function is not None:
        return None
    if value.get("name") not in names or ("parameters" in value and "arguments" in value):
        return None
    arguments = value.get("parameters", value.get("arguments"))
    if isinstance(arguments, str):
        arguments = _object_in(arguments)
    elif arguments is None and (names.listed is not None or value.get("type") == "function"):
        arguments = {}
    return ToolCall(value["name"], arguments) if isinstance(arguments, dict) else None


def _object_in(text: str) -> JsonValue:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
