"""Messages of a dialog, checked and brought into the one shape that chat templates expect."""

import json
from collections.abc import Mapping, Sequence

from ..errors import DialogError
from ..json_types import JsonMapping, JsonObject, JsonValue

# A message that was checked, one as callers have it, and the specification of a tool.
MessageDict = JsonObject
MessageMapping = JsonMapping
ToolDict = JsonObject
ROLES = ("system", "developer", "user", "assistant", "tool", "ipython")
_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id")
# What OpenAI's message objects hold beside these, and no dialog format has a place for.
_IGNORED = ("annotations", "audio", "function_call", "id", "parsed", "reasoning", "reasoning_content", "refusal")


def normalize(messages: Sequence[MessageMapping]) -> list[MessageDict]:
    """Return the messages with contents as text and tool arguments as objects.

    Accepts OpenAI's shapes: content as a list of text parts or null, arguments as a JSON string, null fields.
    Raises DialogError naming the message and the value that is wrong.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise DialogError(f"messages must be a list of {{'role', 'content'}}, not a {type(messages).__name__}")
    if not messages:
        raise DialogError("the dialog is empty: give at least one message")
    return [_message(index, message) for index, message in enumerate(messages)]


def _message(index: int, message: JsonValue) -> MessageDict:
    where = f"message {index}"
    if not isinstance(message, Mapping):
        raise DialogError(f"{where} must be an object, not {message!r:.80}")
    role = message.get("role")
    if role not in ROLES:
        raise DialogError(f"{where} has the role {role!r:.80}; accepted are {', '.join(ROLES)}")
    unknown = [key for key, value in message.items() if key not in (*_KEYS, *_IGNORED) and value is not None]
    if unknown:
        raise DialogError(f"{where} has the unknown key {unknown[0]!r}; accepted are {', '.join(_KEYS)}")
    calls = message.get("tool_calls")
    result: MessageDict = {"role": "system" if role == "developer" else role}
    content = message.get("content")
    if content is None and not calls:
        raise DialogError(f"{where} has no content")
    result["content"] = "" if content is None else _text(where, content)
    for key in ("name", "tool_call_id"):
        if message.get(key) is not None:
            result[key] = _string(where, key, message[key])
    if calls:
        if role != "assistant":
            raise DialogError(f"{where}: only an assistant makes tool calls, not {role!r}")
        if not isinstance(calls, Sequence) or isinstance(calls, str):
            raise DialogError(f"{where}: tool_calls must be a list, not {calls!r:.80}")
        result["tool_calls"] = [_tool_call(where, call) for call in calls]
    return result


def _text(where: str, content: JsonValue) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise DialogError(f"{where}: content must be text or a list of text parts, not {content!r:.80}")
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else part
        if kind != "text" or not isinstance(part.get("text"), str):
            raise DialogError(f"{where}: content parts must be {{'type': 'text', 'text'}}, not of type {kind!r:.80}")
    return "".join(part["text"] for part in content)


def _string(where: str, key: str, value: JsonValue) -> str:
    if not isinstance(value, str):
        raise DialogError(f"{where}: {key} must be text, not {value!r:.80}")
    return value


def _tool_call(where: str, call: JsonValue) -> MessageDict:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DialogError(f"{where}: a tool call must have a function with a name, not {call!r:.80}")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            raise DialogError(
                f"{where}: the arguments of {function['name']} are not valid JSON: {arguments!r:.80}"
            ) from None
    if not isinstance(arguments, Mapping):
        raise DialogError(f"{where}: the arguments of {function['name']} must be an object, not {arguments!r:.80}")
    result = {"type": "function", "function": {"name": function["name"], "arguments": dict(arguments)}}
    return {"id": call["id"], **result} if isinstance(call.get("id"), str) else result


def one_call_each(messages: Sequence[MessageDict]) -> list[MessageDict]:
    """Return the dialog with an assistant's several tool calls as messages of their own, each before its result.

    The text beside the calls stays with the first of them.
    """
    result: list[MessageDict] = []
    waiting: list[MessageDict] = []
    text = ""
    for message in messages:
        if message["role"] in ("tool", "ipython") and waiting:
            result += [{**_answered(waiting, message), "content": text}, message]
            text = ""
            continue
        result += _with_first(waiting, text)
        waiting, text = [], ""
        if len(message.get("tool_calls", ())) > 1:
            waiting = [{**message, "content": "", "tool_calls": [call]} for call in message["tool_calls"]]
            text = message["content"]
        else:
            result.append(message)
    return result + _with_first(waiting, text)


def _with_first(calls: list[MessageDict], text: str) -> list[MessageDict]:
    return [{**calls[0], "content": text}, *calls[1:]] if calls else []


def arguments_as_text(messages: Sequence[MessageDict]) -> list[MessageDict]:
    """Return the dialog with the arguments of tool calls as JSON text, for templates that want them so."""
    return [
        {**message, "tool_calls": [_with_text(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def _with_text(call: JsonMapping) -> MessageDict:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}


def _answered(waiting: list[MessageDict], answer: JsonMapping) -> MessageDict:
    """Take the call that `answer` names out of those waiting, else the first of them."""
    call_id = answer.get("tool_call_id")
    matching = [n for n, message in enumerate(waiting) if call_id and message["tool_calls"][0].get("id") == call_id]
    return waiting.pop(matching[0] if matching else 0)
