"""POST /v1/responses, and what is kept of them. Source: https://platform.openai.com/docs/api-reference/responses."""

import secrets
import time

from fastapi import APIRouter, Request, Response

from ...json_types import JsonMapping, JsonObject
from ..core.chat import converse, prompt_of
from ..core.events import CollectedAnswer
from ..core.request_context import RequestContext
from ..http.errors import ApiError
from ..http.streaming import COMMENT, EVENT_STREAM, errors_as_events, kept_alive
from .responses_input import chat_of, dialog_messages, input_items, stored_item, tools_of
from .responses_schema import InputItem, ResponseInput, ResponsesRequest
from .responses_store import ResponseStore, Stored
from .responses_writer import ResponseWriter
from .tools import ToolSet

router = APIRouter(tags=["OpenAI"])
_LISTED = 100


@router.post("/v1/responses")
async def responses(body: ResponsesRequest, request: Request) -> Response:
    """Answer an input, going on from an earlier response if one is named."""
    store: ResponseStore = request.app.state.responses
    items, messages, tools = _read(body, store)
    chat = chat_of(body, messages, tools, settings=body.settings(), top_logprobs=body.logprobs)
    async with RequestContext(request) as context:
        context.ignore(body.ignored())
        context.leave_out_tools(tools.left_out)
        loaded = await context.use(body.model, body.keep_alive)
        events = await converse(chat, context, streamed=bool(body.stream))
        writer = ResponseWriter(_head(body, loaded.choice.name), context.extension, tools)

        def keep(response: JsonMapping, answer: CollectedAnswer) -> None:
            if body.store is not False:
                sent = [stored_item(item) for item in items]
                store.put(Stored(response, [*messages, _said(answer)], sent))

        if body.stream:
            parts = writer.stream(context.counted(events), keep)
            return context.stream(kept_alive(errors_as_events(parts, request, event="error"), COMMENT), EVENT_STREAM)
        [answer] = await context.gather(events, 1)
        response = writer.finish(answer, writer.items(answer))
        keep(response, answer)
        return context.reply(response)


@router.post("/v1/responses/input_tokens")
async def count_input_tokens(body: ResponseInput, request: Request) -> Response:
    """Count the tokens of an input."""
    _, messages, tools = _read(body, request.app.state.responses)
    async with RequestContext(request) as context:
        context.ignore(body.ignored())
        context.leave_out_tools(tools.left_out)
        loaded = await context.use(body.model, body.keep_alive)
        chat = chat_of(body, messages, tools)
        prompt = await loaded.prepare(lambda: prompt_of(chat, loaded))
        counted = {"object": "response.input_tokens", "input_tokens": len(prompt)}
        return context.reply({**counted, **context.extension()})


@router.get("/v1/responses/{response_id}")
async def show_response(response_id: str, request: Request) -> JsonObject:
    """Give a stored response once more."""
    return dict(request.app.state.responses.get(response_id).response)


@router.get("/v1/responses/{response_id}/input_items")
async def list_input_items(
    response_id: str, request: Request, after: str | None = None, limit: int = 20, order: str = "desc"
) -> JsonObject:
    """List the items of a stored response's input, the last one first unless `order` is asc."""
    items = list(request.app.state.responses.get(response_id).input_items)
    if order != "asc":
        items.reverse()
    ids = [item["id"] for item in items]
    if after is not None and after not in ids:
        raise ApiError(404, f"there is no item {after[:80]!r} in the input of {response_id[:80]!r}", param="after")
    rest = items[ids.index(after) + 1 :] if after is not None else items
    page = rest[: max(1, min(limit, _LISTED))]
    ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
    return {"object": "list", "data": page, **ends, "has_more": len(page) < len(rest)}


@router.post("/v1/responses/{response_id}/cancel")
async def cancel_response(response_id: str, request: Request) -> JsonObject:
    """Refuse to cancel: a response that is stored is finished, since none runs in the background."""
    request.app.state.responses.get(response_id)
    raise ApiError(
        400, "only responses in the background can be cancelled, and none runs there", code="not_cancellable"
    )


@router.delete("/v1/responses/{response_id}")
async def delete_response(response_id: str, request: Request) -> JsonObject:
    """Forget a stored response."""
    request.app.state.responses.remove(response_id)
    return {"id": response_id, "object": "response", "deleted": True}


def _read(body: ResponseInput, store: ResponseStore) -> tuple[list[InputItem], list[JsonObject], ToolSet]:
    """Return the input as items, the dialog with what came before it, and the tools."""
    before = store.get(body.previous_response_id).messages if body.previous_response_id else ()
    items = input_items(body, store)
    tools = tools_of(body, items)
    return items, dialog_messages(items, before, tools), tools


def _said(answer: CollectedAnswer) -> JsonObject:
    calls = [
        {"id": call.id, "function": {"name": call.name, "arguments": call.arguments or {}}} for call in answer.calls
    ]
    return {"role": "assistant", "content": answer.text, "tool_calls": calls or None}


def _head(body: ResponsesRequest, model: str) -> JsonObject:
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
