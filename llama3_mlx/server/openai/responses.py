"""POST /v1/responses, and what is kept of them. Source: https://platform.openai.com/docs/api-reference/responses."""

import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from ..core.chat import converse
from ..core.events import CollectedAnswer, Event, LogprobEntry, TextDelta, ToolCallEvent
from ..core.request_context import RequestContext
from ..http.streaming import COMMENT, EVENT_STREAM, errors_as_events, kept_alive, sse
from .chat import logprob_object
from .responses_input import chat_of, dialog_messages
from .responses_schema import ResponsesRequest
from .responses_store import ResponseStore, Stored

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/responses")
async def responses(body: ResponsesRequest, request: Request) -> Response:
    """Answer an input, going on from an earlier response if one is named."""
    store: ResponseStore = request.app.state.responses
    before = store.get(body.previous_response_id).messages if body.previous_response_id else ()
    messages = dialog_messages(body, before)
    chat = chat_of(body, messages)
    async with RequestContext(request) as context:
        context.ignore(body.ignored())
        loaded = await context.use(body.model, body.keep_alive)
        events = await converse(chat, loaded, context.server.settings, context.stack)
        writer = _Writer(body, loaded.choice.name, messages, store)
        if body.stream:
            parts = writer.stream(context.counted(events))
            return context.stream(kept_alive(errors_as_events(parts, request, event="error"), COMMENT), EVENT_STREAM)
        [answer] = await context.gather(events, 1)
        return context.reply(writer.finish(answer, writer.items(answer)))


@router.get("/v1/responses/{response_id}")
async def show_response(response_id: str, request: Request) -> dict[str, Any]:
    """Give a stored response once more."""
    return dict(request.app.state.responses.get(response_id).response)


@router.delete("/v1/responses/{response_id}")
async def delete_response(response_id: str, request: Request) -> dict[str, Any]:
    """Forget a stored response."""
    request.app.state.responses.remove(response_id)
    return {"id": response_id, "object": "response", "deleted": True}


class _Writer:
    """Writes one response, whole or as events."""

    def __init__(
        self, body: ResponsesRequest, model: str, messages: Sequence[Mapping[str, Any]], store: ResponseStore
    ) -> None:
        self._body, self._messages, self._store = body, messages, store
        self._number = -1
        self._message_id = f"msg_{secrets.token_hex(16)}"
        self._head = _head(body, model)

    def finish(self, answer: CollectedAnswer, output: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the whole response, and keep it unless it shall not be kept."""
        assert answer.end is not None, "a response is finished when its answer has ended"
        done, cut = answer.end.completion, answer.reason == "length"
        response = {
            **self._head,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": output,
            "usage": {
                "input_tokens": done.prompt_tokens,
                "input_tokens_details": {"cached_tokens": done.cached_tokens},
                "output_tokens": len(done.token_ids),
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": done.prompt_tokens + len(done.token_ids),
            },
        }
        if self._body.store is not False:
            calls = [
                {"id": call.id, "function": {"name": call.name, "arguments": dict(call.arguments)}}
                for call in answer.calls
            ]
            said = {"role": "assistant", "content": answer.text, "tool_calls": calls or None}
            self._store.put(Stored(response, [*self._messages, said]))
        return response

    def items(self, answer: CollectedAnswer) -> list[dict[str, Any]]:
        """Return the output items of a whole answer."""
        texts = [self._message(answer, answer.reason)] if answer.text or not answer.calls else []
        return [*texts, *(_call_item(call, call.arguments_json) for call in answer.calls)]

    async def stream(self, events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
        """Yield the events of a response as its answer comes."""
        begun = {**self._head, "status": "in_progress", "output": [], "usage": None}
        yield self._event("response.created", response=begun)
        yield self._event("response.in_progress", response=begun)
        answer, output = CollectedAnswer(), list[dict[str, Any]]()
        in_text = False
        async for event in events:
            answer.add(event)
            if isinstance(event, TextDelta):
                if not in_text:
                    in_text = True
                    for part in self._begin_text():
                        yield part
                logprobs = _logprobs(event.logprobs)
                yield self._text_event("response.output_text.delta", delta=event.text, logprobs=logprobs)
                continue
            if in_text:
                in_text = False
                output.append(self._message(answer, "stop" if isinstance(event, ToolCallEvent) else event.reason))
                for part in self._end_text(output[-1]):
                    yield part
            if isinstance(event, ToolCallEvent):
                for part in self._call(event, len(output)):
                    yield part
                output.append(_call_item(event, event.arguments_json))
        response = self.finish(answer, output or self.items(answer))
        yield self._event(f"response.{response['status']}", response=response)

    def _begin_text(self) -> list[bytes]:
        item = {**self._message(CollectedAnswer(), "stop"), "status": "in_progress", "content": []}
        return [
            self._event("response.output_item.added", output_index=0, item=item),
            self._text_event("response.content_part.added", part=_part(CollectedAnswer())),
        ]

    def _end_text(self, item: Mapping[str, Any]) -> list[bytes]:
        [part] = item["content"]
        return [
            self._text_event("response.output_text.done", text=part["text"], logprobs=part["logprobs"]),
            self._text_event("response.content_part.done", part=part),
            self._event("response.output_item.done", output_index=0, item=item),
        ]

    def _call(self, call: ToolCallEvent, index: int) -> list[bytes]:
        item = _call_item(call, call.arguments_json)
        begun = {**_call_item(call, ""), "status": "in_progress"}
        place = {"item_id": item["id"], "output_index": index}
        return [
            self._event("response.output_item.added", output_index=index, item=begun),
            self._event("response.function_call_arguments.delta", **place, delta=call.arguments_json),
            self._event(
                "response.function_call_arguments.done", **place, name=call.name, arguments=call.arguments_json
            ),
            self._event("response.output_item.done", output_index=index, item=item),
        ]

    def _message(self, answer: CollectedAnswer, reason: str) -> dict[str, Any]:
        return {
            "type": "message",
            "id": self._message_id,
            "status": "incomplete" if reason == "length" else "completed",
            "role": "assistant",
            "content": [_part(answer)],
        }

    def _text_event(self, kind: str, **fields: Any) -> bytes:
        return self._event(kind, item_id=self._message_id, output_index=0, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return sse({"type": kind, "sequence_number": self._number, **fields}, kind)


def _head(body: ResponsesRequest, model: str) -> dict[str, Any]:
    """Return the fields of a response that its request decides."""
    sent = body.model_dump(by_alias=True, exclude_none=True)
    return {
        "id": f"resp_{secrets.token_hex(16)}",
        "object": "response",
        "created_at": int(time.time()),
        "model": model,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": None, "summary": None},
        "store": body.store is not False,
        "temperature": body.temperature,
        "text": sent.get("text") or {"format": {"type": "text"}},
        "tool_choice": sent.get("tool_choice", "auto"),
        "tools": sent.get("tools", []),
        "top_p": body.top_p,
        "truncation": "disabled",
    }


def _part(answer: CollectedAnswer) -> dict[str, Any]:
    return {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": _logprobs(answer.logprobs)}


def _logprobs(logprobs: Sequence[LogprobEntry]) -> list[dict[str, Any]]:
    return [
        {**logprob_object(entry), "top_logprobs": [logprob_object(other) for other in entry.alternatives]}
        for entry in logprobs
    ]


def _call_item(call: ToolCallEvent, arguments: str) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": f"fc_{call.id.removeprefix('call_')}",
        "call_id": call.id,
        "name": call.name,
        "arguments": arguments,
        "status": "completed",
    }
