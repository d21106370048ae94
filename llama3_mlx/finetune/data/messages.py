"""Messages and tools as data sets hold them: by OpenAI's names or ShareGPT's, with nulls that tables fill in."""

import json
from collections.abc import Mapping

from ...errors import DataError
from ...json_types import JsonMapping, JsonValue
from .samples import Messages

# ShareGPT's names of who speaks. Source: LlamaFactory data/README.md, axolotl's chat_template strategy.
_SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "function_call",
    "observation": "tool",
    "tool": "tool",
    "function_response": "tool",
}
# What data sets note of a message and no template writes.
_NOTES = ("id", "message_id", "timestamp", "date", "model", "score", "rank", "lang", "metadata", "source", "reasoning")
_WEIGHTS = ("weight", "train")


def read_messages(value: JsonValue, key: str) -> tuple[Messages, tuple[bool, ...] | None]:
    """Return messages, and for each of the assistant's whether it is a target, where some `weight` or `train` says so.

    Raises DataError.
    """
    if isinstance(value, str):
        value = _parsed(value, key)
    if not isinstance(value, list) or not value or not all(isinstance(message, Mapping) for message in value):
        raise DataError(f"{key} must be a list of messages, not {value!r:.80}")
    if all("from" in message and "value" in message for message in value):
        return read_turns(value, key), None
    messages: Messages = []
    weights: list[bool] = []
    for message in map(without_nulls, value):
        if message.get("role") == "assistant":
            weights.append(_weight(message))
        messages.append({name: item for name, item in message.items() if name not in (*_NOTES, *_WEIGHTS)})
    return messages, None if all(weights) else tuple(weights)


def _weight(message: JsonMapping) -> bool:
    for name in _WEIGHTS:
        weight = message.get(name, True)
        if weight not in (0, 1):
            raise DataError(f"{name} of a message must be 0 or 1, not {weight!r:.80}")
        if not weight:
            return False
    return True


def read_turns(value: JsonValue, key: str) -> Messages:
    """Return ShareGPT's turns, {"from", "value"}, as messages; raises DataError."""
    if not isinstance(value, list) or not value or not all(isinstance(turn, Mapping) for turn in value):
        raise DataError(f"{key} must be a list of turns, not {value!r:.80}")
    if all("role" in turn for turn in value):
        return read_messages(value, key)[0]
    return [_turn(turn, key) for turn in value]


def _turn(turn: JsonMapping, key: str) -> JsonMapping:
    speaker, said = turn.get("from"), turn.get("value")
    role = _SPEAKERS.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise DataError(f"{key} has a turn from {speaker!r:.80}; known are {', '.join(_SPEAKERS)}")
    if not isinstance(said, str):
        raise DataError(f"{key} has a turn whose value is {said!r:.80}, not text")
    if role != "function_call":
        return {"role": role, "content": said}
    call = _parsed(said, "function_call")
    calls = call if isinstance(call, list) else [call]
    return {"role": "assistant", "content": "", "tool_calls": [{"function": each} for each in calls]}


def read_tools(value: JsonMapping) -> list[JsonValue] | None:
    """Return the tools of an example, given as a list or as its JSON text; None without any. Raises DataError."""
    tools = value.get("tools")
    if isinstance(tools, str):
        tools = _parsed(tools, "tools") if tools.strip() else None
    if tools is not None and not isinstance(tools, list):
        raise DataError(f"tools must be a list, not {tools!r:.80}")
    return [without_nulls(_parsed(tool, "tools") if isinstance(tool, str) else tool) for tool in tools or ()] or None


def without_nulls(value: JsonValue) -> JsonValue:
    """Return a value without keys that are null: a table gives every row the keys of all. Source: TRL."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _parsed(text: str, key: str) -> JsonValue:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{key} is text that is not valid JSON: {error}") from None
