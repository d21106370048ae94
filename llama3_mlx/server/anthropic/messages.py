"""POST /v1/messages and /v1/messages/count_tokens. Source: https://docs.anthropic.com/en/api/messages."""

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from ..core.chat import Chat, converse, prompt_of
from ..core.events import AnswerEnd, Event, TextDelta, ToolCallEvent
from ..core.request_context import RequestContext
from ..http.errors import ApiError
from ..http.streaming import EVENT_STREAM, errors_as_events, kept_alive, sse
from .schema import AnthropicTool, ContentBlock, CountRequest, MessagesRequest

router = APIRouter(tags=["Anthropic"])
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_PING = sse({"type": "ping"}, "ping")


@router.post("/v1/messages")
async def messages(body: MessagesRequest, request: Request) -> Response:
    """Answer a dialog."""
    chat = _chat(body, body.settings(), body.constraint, body.max_tokens)
    async with RequestContext(request) as context:
        context.ignore(body.ignored())
        loaded = await context.use(body.model)
        prompt = await loaded.prepare(lambda: prompt_of(chat, loaded))
        events = await converse(chat, loaded, context.server.settings, context.stack, prompt)
        head = _head(loaded.choice.name)
        if body.stream:
            parts = _stream(head, context.counted(events), len(prompt))
            return context.stream(kept_alive(errors_as_events(parts, request, event="error"), _PING), EVENT_STREAM)
        [answer] = await context.gather(events, 1)
        assert answer.end is not None, "a gathered answer has ended"
        content: list[dict[str, Any]] = [{"type": "text", "text": answer.text}] if answer.text else []
        content += [_tool_use(call, call.arguments) for call in answer.calls]
        return context.reply({**head, "content": content, **_stopped(answer.end), "usage": _usage(answer.end)})


@router.post("/v1/messages/count_tokens")
async def count_tokens(body: CountRequest, request: Request) -> Response:
    """Count the tokens of a dialog."""
    async with RequestContext(request) as context:
        context.ignore(body.ignored())
        loaded = await context.use(body.model)
        chat = _chat(body, {}, None)
        prompt = await loaded.prepare(lambda: prompt_of(chat, loaded))
        return context.reply({"input_tokens": len(prompt)})


def _chat(
    body: CountRequest, settings: dict[str, Any], schema: Mapping[str, Any] | None, at_most: int | None = None
) -> Chat:
    choice = body.tool_choice
    named = choice is not None and choice.type == "tool"
    if choice is not None and named and not choice.name:
        raise ApiError(400, "tool_choice of type tool needs a name", param="tool_choice")
    if choice is not None and choice.type in ("any", "tool") and not body.tools:
        raise ApiError(400, "tool_choice needs tools to choose from", param="tool_choice")
    system = [{"role": "system", "content": _text(body.system)}] if body.system else []
    return Chat(
        messages=[*system, *(part for m in body.messages for part in _messages(m.role, m.content))],
        settings=settings,
        tools=[_tool(tool) for tool in body.tools or ()],
        tool_choice=(choice.name or "") if choice and named else _TOOL_CHOICES[choice.type if choice else "auto"],
        named_tool=named,
        parallel_calls=not (choice and choice.disable_parallel_tool_use),
        schema=schema,
        at_most=at_most,
        continue_final=bool(body.messages) and body.messages[-1].role == "assistant",
    )


def _tool(tool: AnthropicTool) -> dict[str, Any]:
    if tool.input_schema is None:
        raise ApiError(400, f"the tool {tool.name} has no input_schema; tools of Anthropic's own are not supported")
    function = {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema}
    return {"type": "function", "function": function}


def _messages(role: str, content: str | Sequence[ContentBlock]) -> list[dict[str, Any]]:
    """Return one of Anthropic's messages as those of a dialog: tool results stand on their own."""
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    results = [
        {"role": "tool", "content": _text(block.content or ""), "tool_call_id": block.tool_use_id}
        for block in content
        if block.type == "tool_result"
    ]
    calls = [
        {"id": block.id, "function": {"name": block.name or "", "arguments": block.input or {}}}
        for block in content
        if block.type == "tool_use"
    ]
    texts = [
        block for block in content if block.type not in ("tool_result", "tool_use", "thinking", "redacted_thinking")
    ]
    if not texts and not calls:
        return results or [{"role": role, "content": ""}]
    return [*results, {"role": role, "content": _text(texts), "tool_calls": calls or None}]


def _text(content: str | Sequence[ContentBlock] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for block in content:
        if block.type != "text" or block.text is None:
            raise ApiError(400, f"content of type {block.type[:40]!r} is not supported here: these models read text")
    return "".join(block.text or "" for block in content)


def _head(model: str) -> dict[str, Any]:
    return {"id": f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant", "model": model}


def _tool_use(call: ToolCallEvent, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{call.id.removeprefix('call_')}", "name": call.name, "input": arguments}


def _stopped(end: AnswerEnd) -> dict[str, Any]:
    reason = "stop_sequence" if end.stop_text else _STOP_REASONS[end.reason]
    return {"stop_reason": reason, "stop_sequence": end.stop_text}


def _usage(end: AnswerEnd) -> dict[str, Any]:
    done = end.completion
    return {
        "input_tokens": done.prompt_tokens - done.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": done.cached_tokens,
        "output_tokens": len(done.token_ids),
    }


async def _stream(head: Mapping[str, Any], events: AsyncIterator[Event], prompt_tokens: int) -> AsyncIterator[bytes]:
    begun = {"input_tokens": prompt_tokens, "output_tokens": 0}
    message = {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": begun}
    yield _event("message_start", message=message)
    yield _PING
    blocks, in_text = 0, False
    async for event in events:
        if isinstance(event, TextDelta):
            if not in_text:
                yield _event("content_block_start", index=blocks, content_block={"type": "text", "text": ""})
                in_text, blocks = True, blocks + 1
            delta = {"type": "text_delta", "text": event.text}
            yield _event("content_block_delta", index=blocks - 1, delta=delta)
            continue
        if in_text:
            yield _event("content_block_stop", index=blocks - 1)
            in_text = False
        if isinstance(event, ToolCallEvent):
            yield _event("content_block_start", index=blocks, content_block=_tool_use(event, {}))
            delta = {"type": "input_json_delta", "partial_json": event.arguments_json}
            yield _event("content_block_delta", index=blocks, delta=delta)
            yield _event("content_block_stop", index=blocks)
            blocks += 1
        else:
            yield _event("message_delta", delta=_stopped(event), usage=_usage(event))
    yield _event("message_stop")


def _event(kind: str, **fields: Any) -> bytes:
    return sse({"type": kind, **fields}, kind)
