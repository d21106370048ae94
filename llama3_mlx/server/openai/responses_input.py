"""The input of a Responses request as messages and tools of a dialog."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.chat import Chat
from ..http.errors import ApiError
from .responses_schema import ChosenTool, FunctionTool, InputItem, InputPart, ResponsesRequest

_TEXTS = ("input_text", "output_text", "text", "refusal")
_LEFT_OUT = ("reasoning", "item_reference")


def dialog_messages(body: ResponsesRequest, before: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the dialog: what came before, then this request's input, without instructions."""
    if isinstance(body.input, str):
        return [*map(dict, before), {"role": "user", "content": body.input}]
    messages = [*map(dict, before)]
    for item in body.input:
        if item.type not in _LEFT_OUT:
            _append(messages, item)
    return messages


def chat_of(body: ResponsesRequest, messages: Sequence[Mapping[str, Any]]) -> Chat:
    """Return what the request submissions for; raises ApiError 400 for what fits no answer."""
    if body.background:
        raise ApiError(400, "background is not supported: stream the response, or wait for it", param="background")
    if body.truncation == "auto":
        raise ApiError(400, "truncation must be disabled: nothing is left out in silence", param="truncation")
    instructions = [{"role": "system", "content": body.instructions}] if body.instructions else []
    choice = body.tool_choice
    return Chat(
        messages=[*instructions, *messages],
        settings=body.settings(),
        tools=[_tool(tool) for tool in body.tools or ()],
        tool_choice=choice.name if isinstance(choice, ChosenTool) else choice or "auto",
        named_tool=isinstance(choice, ChosenTool),
        parallel_calls=body.parallel_tool_calls is not False,
        schema=_schema(body),
        top_logprobs=body.logprobs,
    )


def _append(messages: list[dict[str, Any]], item: InputItem) -> None:
    """Add an item to the dialog; calls in a row belong to one message."""
    if item.type in (None, "message"):
        if item.content is None:
            raise ApiError(400, "a message of the input has no content", param="input")
        messages.append({"role": item.role or "user", "content": _text(item.content)})
    elif item.type == "function_call":
        call = {"id": item.call_id, "function": {"name": item.name or "", "arguments": item.arguments or "{}"}}
        if messages and messages[-1].get("role") == "assistant":
            messages[-1] = {**messages[-1], "tool_calls": [*messages[-1].get("tool_calls", ()), call]}
        else:
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
    elif item.type == "function_call_output":
        messages.append({"role": "tool", "content": _text(item.output), "tool_call_id": item.call_id})
    else:
        raise ApiError(400, f"input of type {str(item.type)[:40]!r} is not supported", param="input")


def _text(content: str | Sequence[InputPart] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type not in _TEXTS:
            raise ApiError(400, f"content of type {part.type[:40]!r} is not supported: these models read text")
    return "".join(part.text or "" for part in content)


def _tool(tool: FunctionTool) -> dict[str, Any]:
    if tool.type != "function" or not tool.name:
        raise ApiError(400, f"tools of type {tool.type[:40]!r} are not supported: give functions", param="tools")
    parameters = tool.parameters or {"type": "object", "properties": {}}
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description or "", "parameters": parameters},
    }


def _schema(body: ResponsesRequest) -> Mapping[str, Any] | None:
    text_format = body.text.format if body.text else None
    if text_format is None or text_format.type == "text":
        return None
    if text_format.type == "json_object":
        return {"type": "object"}
    if text_format.schema_ is None:
        raise ApiError(400, "text.format of type json_schema needs a schema", param="text")
    return text_format.schema_
