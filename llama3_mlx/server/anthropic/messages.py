"""POST /v1/messages and /v1/messages/count_tokens. Source: https://docs.anthropic.com/en/api/messages."""

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from ...json_types import JsonMapping, JsonObject
from ..core.chat import Chat, converse, prompt_of
from ..core.events import AnswerEnd, Event, PromptProgress, TextDelta, ToolCallEvent
from ..core.request_context import RequestContext
from ..core.schema import options_of
from ..http.errors import ApiError
from ..http.streaming import EVENT_STREAM, errors_as_events, kept_alive, sse
from .schema import AnthropicTool, AnthropicToolChoice, ContentBlock, CountRequest, MessagesRequest, TextSource

router = APIRouter(tags=["Anthropic"])
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_NO_TEXT = ("tool_result", "tool_use", "thinking", "redacted_thinking")
_PING = sse({"type": "ping"}, "ping")


@router.post("/v1/messages")
async def messages(body: MessagesRequest, request: Request) -> Response:
    """Answer a dialog."""
    tools, left_out = _tools(body.tools or ())
    chat = _chat(body, tools, body.settings())
    async with RequestContext(request) as context:
        context.ignore(body.ignored())
        context.leave_out_tools(left_out)
        loaded = await context.use(body.model)
        prompt = await loaded.prepare(lambda: prompt_of(chat, loaded))
        events = await converse(chat, context, streamed=bool(body.stream), prompt=prompt)
        head = _head(loaded.choice.name)
        if body.stream:
            parts = _stream(head, context.counted(events), len(prompt), context.extension)
            return context.stream(kept_alive(errors_as_events(parts, request, event="error"), _PING), EVENT_STREAM)
        [answer] = await context.gather(events, 1)
        assert answer.end is not None, "a gathered answer has ended"
        content: list[JsonObject] = [{"type": "text", "text": answer.text}] if answer.text else []
        content += [_tool_use(call, call.arguments or {}) for call in answer.calls]
        return context.reply({**head, "content": content, **_stopped(answer.end), "usage": _usage(answer.end)})


@router.post("/v1/messages/count_tokens")
async def count_tokens(body: CountRequest, request: Request) -> Response:
    """Count the tokens of a dialog."""
    tools, left_out = _tools(body.tools or ())
    chat = _chat(body, tools, {})
    async with RequestContext(request) as context:
        context.ignore(body.ignored())
        context.leave_out_tools(left_out)
        loaded = await context.use(body.model)
        prompt = await loaded.prepare(lambda: prompt_of(chat, loaded))
        return context.reply({"input_tokens": len(prompt), **context.extension()})


def _chat(body: CountRequest, tools: list[JsonObject], settings: JsonObject) -> Chat:
    _refuse_thread(body)
    system = [{"role": "system", "content": _text(body.system)}] if body.system else []
    choice = body.tool_choice
    return Chat(
        messages=[*system, *(part for m in body.messages for part in _messages(m.role, m.content))],
        options=options_of(
            settings,
            tools=tools,
            tool_choice=_tool_choice(choice, tools),
            parallel_calls=not (choice and choice.disable_parallel_tool_use),
            schema=body.constraint,
        ),
        continue_final=bool(body.messages) and body.messages[-1].role == "assistant",
    )


def _refuse_thread(body: CountRequest) -> None:
    """Refuse to hold a conversation: clients then send all of it themselves."""
    if body.thread is not None:
        raise ApiError(
            400,
            "thread is not supported, since the server holds no conversations: send the whole one",
            details={"error_code": "thread_unsupported_request", "unsupported": []},
        )


def _tool_choice(choice: AnthropicToolChoice | None, tools: list[JsonObject]) -> str:
    """Return the choice as a chat takes it; raises ApiError 400 where there is no such tool."""
    if choice is None:
        return "auto"
    if choice.type != "tool":
        if choice.type == "any" and not tools:
            raise ApiError(400, "tool_choice needs tools to choose from", param="tool_choice")
        return _TOOL_CHOICES[choice.type]
    if not choice.name:
        raise ApiError(400, "tool_choice of type tool needs a name", param="tool_choice")
    names = [tool["function"]["name"] for tool in tools]
    if choice.name not in names:
        there = ", ".join(names) or "none"
        raise ApiError(400, f"tool_choice is {choice.name[:80]!r}; the tools are {there}", param="tool_choice")
    return choice.name


def _tools(tools: Sequence[AnthropicTool]) -> tuple[list[JsonObject], list[str]]:
    """Return the tools as functions, and the names of those that are left out: Anthropic's own have no schema."""
    functions, left_out = [], []
    for tool in tools:
        if tool.input_schema is None or tool.name is None:
            left_out.append(tool.name or tool.type or "a tool without a name")
            continue
        described = {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema}
        functions.append({"type": "function", "function": described})
    return functions, left_out


def _messages(role: str, content: str | Sequence[ContentBlock]) -> list[JsonObject]:
    """Return one of Anthropic's messages as those of a dialog: tool results stand on their own."""
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    results = [
        {"role": "tool", "content": _result_text(block), "tool_call_id": block.tool_use_id}
        for block in content
        if block.type == "tool_result"
    ]
    calls = [
        {"id": block.id, "function": {"name": block.name or "", "arguments": block.input or {}}}
        for block in content
        if block.type == "tool_use"
    ]
    texts = [block for block in content if block.type not in _NO_TEXT]
    if not texts and not calls:
        return results or [{"role": role, "content": ""}]
    return [*results, {"role": role, "content": _text(texts), "tool_calls": calls or None}]


def _result_text(block: ContentBlock) -> str:
    return _text(block.content) or ("the tool failed" if block.is_error else "")


def _text(content: str | Sequence[ContentBlock] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(_block_text(block) for block in content)


def _block_text(block: ContentBlock) -> str:
    """Return the text of a block; that of a document or search result stands on lines of its own."""
    if block.type == "text" and block.text is not None:
        return block.text
    if block.type == "search_result":
        return _document([block.title, block.source if isinstance(block.source, str) else None], _text(block.content))
    source = block.source
    if block.type == "document" and isinstance(source, TextSource) and source.type in ("text", "content"):
        return _document([block.title, block.context], source.data or _text(source.content))
    raise ApiError(400, f"content of type {block.type[:40]!r} is not supported here: these models read text")


def _document(heads: Sequence[str | None], text: str) -> str:
    return "\n".join([*(head for head in heads if head), text]) + "\n"


def _head(model: str) -> JsonObject:
    return {"id": f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant", "model": model}


def _tool_use(call: ToolCallEvent, arguments: JsonMapping) -> JsonObject:
    return {"type": "tool_use", "id": f"toolu_{call.id.removeprefix('call_')}", "name": call.name, "input": arguments}


def _stopped(end: AnswerEnd) -> JsonObject:
    reason = "stop_sequence" if end.stop_text else _STOP_REASONS[end.reason]
    stopped = {"stop_reason": reason, "stop_sequence": end.stop_text}
    if end.refusal is None:
        return stopped
    return {**stopped, "stop_details": {"type": "refusal", "category": None, "explanation": end.refusal}}


def _usage(end: AnswerEnd) -> JsonObject:
    done = end.completion
    return {
        "input_tokens": done.prompt_tokens - done.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": done.cached_tokens,
        "output_tokens": len(done.token_ids),
    }


async def _stream(
    head: JsonMapping, events: AsyncIterator[Event], prompt_tokens: int, extension: Callable[[], JsonMapping]
) -> AsyncIterator[bytes]:
    begun = {"input_tokens": prompt_tokens, "output_tokens": 0}
    message = {**head, **extension(), "content": [], "stop_reason": None, "stop_sequence": None, "usage": begun}
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
        if isinstance(event, PromptProgress):
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
        elif isinstance(event, AnswerEnd):
            yield _event("message_delta", delta=_stopped(event), usage=_usage(event), **extension())
    yield _event("message_stop")


def _event(kind: str, **fields: Any) -> bytes:
    return sse({"type": kind, **fields}, kind)
