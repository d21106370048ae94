"""Tools in dialogs whose chat template has no place for them: written into the messages, in Llama 3.1's words.

Source: https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1 (JSON based tool calling).
"""

import json
from collections.abc import Sequence

from ..json_types import JsonMapping
from .messages import MessageDict, ToolDict

_INSTRUCTIONS = (
    "Given the following functions, please respond with a JSON for a function call with its proper arguments that best "
    'answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary of argument '
    "name and its value}. Do not use variables.\n\n"
)


def tools_as_text(
    messages: Sequence[MessageDict],
    tools: list[ToolDict] | None,
    *,
    takes_tools: bool,
    takes_calls: bool,
) -> tuple[list[MessageDict], list[ToolDict] | None]:
    """Return messages and tools as a template can take them; what it can't take has become text of the messages."""
    result = [dict(message) for message in messages]
    if not takes_calls:
        result = [_call_as_text(message) for message in result]
    if not tools or takes_tools:
        return result, tools
    instructions = _INSTRUCTIONS + "".join(json.dumps(tool, ensure_ascii=False, indent=4) + "\n\n" for tool in tools)
    for message in result:
        if message["role"] == "user":
            message["content"] = instructions + message["content"]
            return result, None
    return [*result, {"role": "user", "content": instructions.rstrip()}], None


def _call_as_text(message: MessageDict) -> MessageDict:
    if not message.get("tool_calls"):
        return message
    calls = "; ".join(call_as_text(call["function"]) for call in message["tool_calls"])
    content = f"{message['content']}\n{calls}" if message["content"] else calls
    return {**{key: value for key, value in message.items() if key != "tool_calls"}, "content": content}


def call_as_text(function: JsonMapping) -> str:
    """Return a call as Llama 3.1 writes it."""
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return f'{{"name": {json.dumps(function["name"], ensure_ascii=False)}, "parameters": {arguments}}}'
