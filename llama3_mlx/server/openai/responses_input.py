"""The input of a Responses request as messages and tools of a dialog."""

import secrets
from collections.abc import Sequence

from ...json_types import JsonMapping, JsonObject, JsonValue
from ..core.chat import Chat
from ..core.schema import options_of
from ..http.errors import ApiError
from .responses_schema import ChosenTool, InputItem, InputPart, ResponseInput, ResponsesAllowedTools, ResponseTool
from .responses_store import ResponseStore
from .tools import ChosenTools, ToolSet

# Parts of a message that are text.
TEXTS = ("input_text", "output_text", "text", "refusal", "summary_text")
# Items that hold nothing which a model here could read: encrypted thoughts, records of OpenAI's own tools.
LEFT_OUT = ("reasoning", "web_search_call", "mcp_list_tools", "program")
CALLS, OUTPUTS = ("function_call", "custom_tool_call"), ("function_call_output", "custom_tool_call_output")
_PREFIXES = {"function_call": "fc", "function_call_output": "fco", "custom_tool_call": "ctc", "message": "msg"}


def input_items(body: ResponseInput, store: ResponseStore) -> list[InputItem]:
    """Return the input as items, references to stored ones resolved; raises ApiError 404 for one that isn't there."""
    if isinstance(body.input, str):
        return [InputItem(type="message", role="user", content=body.input, id=_new_id("message"))]
    items = [
        InputItem.model_validate(store.item(item.id or "")) if _is_reference(item) else item for item in body.input
    ]
    return [item if item.id else item.model_copy(update={"id": _new_id(item.type or "message")}) for item in items]


def stored_item(item: InputItem) -> JsonObject:
    """Return an item as it is stored and listed: content as parts."""
    value = item.model_dump(exclude_none=True)
    if isinstance(item.content, str):
        kind = "output_text" if item.role == "assistant" else "input_text"
        value = {**value, "type": "message", "content": [{"type": kind, "text": item.content}]}
    return value


def _is_reference(item: InputItem) -> bool:
    return item.type == "item_reference" or (item.type is None and item.role is None and item.content is None)


def dialog_messages(items: Sequence[InputItem], before: Sequence[JsonMapping], tools: ToolSet) -> list[JsonObject]:
    """Return the dialog: what came before, then the items, without instructions."""
    messages = [*map(dict, before)]
    for item in items:
        if item.type not in (*LEFT_OUT, "additional_tools"):
            _append(messages, item, tools)
    return messages


def tools_of(body: ResponseInput, items: Sequence[InputItem]) -> ToolSet:
    """Return the tools that a request offers, those among its input included."""
    tools = ToolSet()
    added = [tool for item in items if item.type == "additional_tools" for tool in item.tools or ()]
    for tool in [*(body.tools or ()), *added]:
        _offer(tools, tool)
    return tools


def chat_of(
    body: ResponseInput,
    messages: Sequence[JsonMapping],
    tools: ToolSet,
    *,
    settings: JsonMapping | None = None,
    top_logprobs: int | None = None,
) -> Chat:
    """Return what the request asks for; raises ApiError 400 for what fits no answer."""
    instructions = [{"role": "system", "content": body.instructions}] if body.instructions else []
    choice, allowed = _tool_choice(body, tools)
    return Chat(
        messages=[*instructions, *messages],
        options=options_of(
            settings or {},
            tools=tools.specs(allowed),
            tool_choice=choice,
            parallel_calls=body.parallel_tool_calls is not False,
            schema=_schema(body),
            top_logprobs=top_logprobs,
        ),
    )


def _tool_choice(body: ResponseInput, tools: ToolSet) -> ChosenTools:
    choice = body.tool_choice
    if isinstance(choice, ChosenTool):
        return tools.choose_named(choice.name or choice.type)
    if isinstance(choice, ResponsesAllowedTools):
        return tools.choose_among(choice.mode, (tool.name for tool in choice.tools))
    return tools.choose(choice)


def _offer(tools: ToolSet, tool: ResponseTool, namespace: str | None = None) -> None:
    """Add a tool; what is unavailable here is left out."""
    if tool.type == "function" and tool.name:
        tools.add_function(tool.name, tool.description, tool.parameters, namespace)
    elif tool.type == "custom" and tool.name:
        tools.add_custom(tool.name, tool.description, (tool.format or {}).get("type"), namespace)
    elif tool.type == "namespace" and namespace is None:
        for inner in tool.tools or ():
            _offer(tools, inner, tool.name)
    elif tool.type in ("function", "custom", "namespace"):
        raise ApiError(
            400, f"a tool of type {tool.type} needs a name, and stands in no second namespace", param="tools"
        )
    else:
        tools.left_out.append(tool.name or tool.type)


def _append(messages: list[JsonObject], item: InputItem, tools: ToolSet) -> None:
    """Add an item to the dialog; calls in a row belong to one message."""
    if item.type in (None, "message"):
        if item.content is None:
            raise ApiError(400, "a message of the input has no content", param="input")
        messages.append({"role": item.role or "user", "content": _text(item.content)})
    elif item.type in CALLS:
        arguments: JsonValue = (
            {"input": item.input or ""} if item.type == "custom_tool_call" else item.arguments or "{}"
        )
        name = tools.seen_as(item.name or "", item.namespace)
        call = {"id": item.call_id, "function": {"name": name, "arguments": arguments}}
        if messages and messages[-1].get("role") == "assistant":
            messages[-1] = {**messages[-1], "tool_calls": [*(messages[-1].get("tool_calls") or ()), call]}
        else:
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
    elif item.type in OUTPUTS:
        messages.append({"role": "tool", "content": _text(item.output), "tool_call_id": item.call_id})
    else:
        raise ApiError(400, f"input of type {str(item.type)[:40]!r} is not supported", param="input")


def _text(content: str | Sequence[InputPart] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.type not in TEXTS:
            raise ApiError(400, f"content of type {part.type[:40]!r} is not supported: these models read text")
    return "".join(part.text or part.refusal or "" for part in content)


def _schema(body: ResponseInput) -> JsonMapping | None:
    text_format = body.text.format if body.text else None
    if text_format is None or text_format.type == "text":
        return None
    if text_format.type == "json_object":
        return {"type": "object"}
    if text_format.schema_ is None:
        raise ApiError(400, "text.format of type json_schema needs a schema", param="text")
    return text_format.schema_


def _new_id(kind: str) -> str:
    return f"{_PREFIXES.get(kind, 'item')}_{secrets.token_hex(16)}"
