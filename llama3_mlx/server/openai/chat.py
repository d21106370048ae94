"""POST /v1/chat/completions. Source: https://platform.openai.com/docs/api-reference/chat."""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from ...json_types import JsonMapping, JsonObject
from ..core.chat import Chat, converse
from ..core.events import (
    AnswerEnd,
    CollectedAnswer,
    Event,
    LogprobEntry,
    PromptProgress,
    TextDelta,
    ToolCallEvent,
    Usage,
    usage,
)
from ..core.request_context import RequestContext
from ..core.schema import options_of
from ..http.errors import ApiError
from ..http.streaming import COMMENT, DONE, EVENT_STREAM, errors_as_events, kept_alive, sse
from .dialog_schema import AllowedToolChoice, NamedTool, ToolDefinition
from .schema import ChatRequest
from .tools import ChosenTools, ToolSet

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/chat/completions")
@router.post("/chat/completions", include_in_schema=False)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer a dialog."""
    tools = tools_of(body.tools or ())
    chat = chat_of(body, tools)
    async with RequestContext(request) as context:
        context.ignore(body.ignored())
        context.leave_out_tools(tools.left_out)
        limit_choices(context, chat.n)
        loaded = await context.use(body.model, body.keep_alive)
        events = await converse(chat, context, streamed=bool(body.stream))
        head = _ChatObjects(loaded.choice.name, context.extension, tools)
        if body.stream:
            include_usage = bool(body.stream_options and body.stream_options.include_usage)
            parts = _stream(head, context.counted(events), chat, include_usage)
            return context.stream(kept_alive(errors_as_events(parts, request), COMMENT), EVENT_STREAM)
        answers = await context.gather(events, chat.n)
        return context.reply(head.whole(answers, chat))


def tools_of(definitions: Sequence[ToolDefinition]) -> ToolSet:
    """Return the tools that a request offers."""
    tools = ToolSet()
    for tool in definitions:
        if tool.function is not None and tool.type == "function":
            tools.add_function(tool.function.name, tool.function.description, tool.function.parameters)
        elif tool.custom is not None and tool.type == "custom":
            format_ = tool.custom.format.type if tool.custom.format else None
            tools.add_custom(tool.custom.name, tool.custom.description, format_)
        else:
            tools.left_out.append(tool.type)
    return tools


def chat_of(body: ChatRequest, tools: ToolSet) -> Chat:
    """Return what the request asks for; raises ApiError 400 for what fits no answer."""
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs to be true", param="top_logprobs")
    choice, allowed = _tool_choice(body, tools)
    return Chat(
        messages=[message.as_message() for message in body.messages],
        options=options_of(
            body.settings(),
            tools=tools.specs(allowed),
            tool_choice=choice,
            parallel_calls=body.parallel_tool_calls is not False,
            schema=body.response_format.constraint() if body.response_format else None,
            template=body.chat_template_kwargs,
            top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        ),
        n=body.n or 1,
        continue_final=bool(body.continue_final_message),
        progress=bool(body.stream and body.return_progress),
    )


def _tool_choice(body: ChatRequest, tools: ToolSet) -> ChosenTools:
    choice = body.tool_choice
    if isinstance(choice, NamedTool):
        return tools.choose_named(choice.name)
    if isinstance(choice, AllowedToolChoice):
        allowed = choice.allowed_tools
        return tools.choose_among(allowed.mode, (tool.name for tool in allowed.tools))
    return tools.choose(choice)


def limit_choices(context: RequestContext, count: int) -> None:
    """Refuse a request for more answers than the server gives."""
    limit = context.server.settings.max_choices
    if count > limit:
        raise ApiError(400, f"the request wants {count} answers; at most {limit} are given", param="n")


class _ChatObjects:
    """What all chunks of one answer have in common."""

    def __init__(self, model: str, extension: Callable[[], JsonMapping], tools: ToolSet) -> None:
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self.created, self.model = int(time.time()), model
        self.tools, self._extension = tools, extension
        self._began = time.monotonic()

    def __call__(self, kind: str, choices: list[JsonObject], **more: Any) -> JsonObject:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
            "choices": choices,
            **self._extension(),
            **more,
        }

    def progress(self, event: PromptProgress) -> JsonObject:
        """Return how much of the prompt has been run, as llama.cpp's server tells it."""
        return {
            "total": event.total,
            "processed": event.processed,
            "time_ms": round((time.monotonic() - self._began) * 1e3),
        }

    def whole(self, answers: Sequence[CollectedAnswer], chat: Chat) -> JsonObject:
        """Return the answers as one object."""
        choices = [_choice(index, answer, chat, self.tools) for index, answer in enumerate(answers)]
        return self("chat.completion", choices, usage=usage_object(usage(answers, chat.n)))


def _choice(index: int, answer: CollectedAnswer, chat: Chat, tools: ToolSet) -> JsonObject:
    message: JsonObject = {"role": "assistant", "content": answer.text, "refusal": answer.refusal}
    if answer.refusal is not None:
        message["content"] = answer.text or None
    if answer.calls:
        message["content"] = answer.text or None
        message["tool_calls"] = [_call(call, tools) for call in answer.calls]
    logprobs = _logprobs(answer.logprobs) if chat.options.logprobs is not None else None
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": answer.reason}


async def _stream(
    head: _ChatObjects, events: AsyncIterator[Event], chat: Chat, include_usage: bool
) -> AsyncIterator[bytes]:
    chunk = "chat.completion.chunk"
    later: JsonObject = {"usage": None} if include_usage else {}
    answers = [CollectedAnswer() for _ in range(chat.n)]
    for index in range(chat.n):
        yield sse(head(chunk, [_delta(index, {"role": "assistant", "content": "", "refusal": None})], **later))
    async for event in events:
        answers[event.choice].add(event)
        if isinstance(event, PromptProgress):
            yield sse(head(chunk, [_delta(event.choice, {})], prompt_progress=head.progress(event), **later))
            continue
        if isinstance(event, TextDelta):
            logprobs = _logprobs(event.logprobs) if chat.options.logprobs is not None else None
            choice = _delta(event.choice, {"content": event.text}, logprobs=logprobs)
        elif isinstance(event, ToolCallEvent):
            choice = _delta(event.choice, {"tool_calls": [{"index": event.position, **_call(event, head.tools)}]})
        else:
            if event.refusal is not None:
                yield sse(head(chunk, [_delta(event.choice, {"refusal": event.refusal})], **later))
            choice = _delta(event.choice, {}, event.reason)
        yield sse(head(chunk, [choice], **later))
    if include_usage:
        told = {"timings": _timings(answers[0].end)} if chat.progress and chat.n == 1 else {}
        yield sse(head(chunk, [], usage=usage_object(usage(answers, chat.n)), **told))
    yield DONE


def _timings(end: AnswerEnd | None) -> JsonObject | None:
    """Return how fast one answer was read and written, in the names of llama.cpp's server."""
    if end is None:
        return None
    done = end.completion
    return {
        "cache_n": done.cached_tokens,
        "prompt_n": done.prompt_tokens - done.cached_tokens,
        "prompt_ms": round(end.prompt_s * 1e3, 3),
        "prompt_per_second": done.prompt_tokens_per_second,
        "predicted_n": len(done.token_ids),
        "predicted_ms": round(end.decode_s * 1e3, 3),
        "predicted_per_second": done.tokens_per_second,
    }


def _delta(index: int, delta: JsonObject, reason: str | None = None, logprobs: JsonObject | None = None) -> JsonObject:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


def _call(call: ToolCallEvent, tools: ToolSet) -> JsonObject:
    tool = tools[call.name]
    if tool.is_custom:
        return {"id": call.id, "type": "custom", "custom": {"name": tool.name, "input": tool.input_of(call)}}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments_json}}


def _logprobs(logprobs: Sequence[LogprobEntry]) -> JsonObject:
    content = [
        {**logprob_object(entry), "top_logprobs": [logprob_object(other) for other in entry.alternatives]}
        for entry in logprobs
    ]
    return {"content": content, "refusal": None}


def logprob_object(entry: LogprobEntry) -> JsonObject:
    """Return a token with its log-probability as OpenAI writes it."""
    return {"token": entry.text, "bytes": list(entry.data), "logprob": entry.logprob}


def usage_object(count: Usage) -> JsonObject:
    """Return token counts as OpenAI writes them."""
    return {
        "prompt_tokens": count.prompt,
        "completion_tokens": count.written,
        "total_tokens": count.prompt + count.written,
        "prompt_tokens_details": {"cached_tokens": count.cached},
    }
