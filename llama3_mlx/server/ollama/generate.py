"""POST /api/generate and /api/chat. Source: https://github.com/ollama/ollama/blob/main/docs/api.md."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import JSONResponse

from ...json_types import JsonMapping, JsonObject
from ..core.chat import Chat, converse
from ..core.completion import Continuation, complete
from ..core.events import AnswerEnd, Event, LogprobEntry, PromptProgress, TextDelta, ToolCallEvent
from ..core.loaded_model import LoadedModel
from ..core.request_context import RequestContext
from ..core.schema import options_of
from ..http.errors import ApiError
from ..http.streaming import JSON_LINES, errors_as_events, json_line
from .schema import GenerateRequest, Generating, OllamaChatRequest, OllamaMessage
from .timestamps import now

router = APIRouter(tags=["Ollama"])
Fields = Callable[[str, Sequence[JsonMapping]], JsonObject]


@router.post("/api/generate")
async def generate(body: GenerateRequest, request: Request) -> Response:
    """Answer a prompt, or continue it where `raw` is set."""
    _refuse_thinking(body)
    if body.raw:
        _refuse_with_raw(system=body.system, context=body.context)
    async with RequestContext(request) as context:
        context.ignore(body.ignored())
        if not body.prompt:
            return await _load(context, body, {"response": ""})
        loaded = await context.use(body.model, body.keep_alive)
        if body.raw or body.context:
            prompt: str | list[int] = body.prompt
            if not body.raw:
                prompt = await loaded.prepare(lambda: _continued(body, loaded))
            continuation = Continuation(
                prompts=[prompt],
                options=options_of(_settings(body), schema=_schema(body), top_logprobs=_top(body)),
                parse_special=_parse_special(body),
            )
            events = await complete(continuation, context, streamed=body.stream is not False)
        else:
            events = await converse(_chat(body, _dialog(body)), context, streamed=body.stream is not False)

        def fields(text: str, _: Sequence[JsonMapping]) -> JsonObject:
            return {"response": text}

        return await _answer(context, body, events, fields, with_context=not body.raw)


@router.post("/api/chat")
async def chat(body: OllamaChatRequest, request: Request) -> Response:
    """Answer a dialog."""
    async with RequestContext(request) as context:
        context.ignore(body.ignored())
        if not body.messages:
            return await _load(context, body, {"message": {"role": "assistant", "content": ""}})
        await context.use(body.model, body.keep_alive)
        tools = [tool.model_dump(exclude_none=True) for tool in body.tools or ()]
        conversation = _chat(body, [_message(message) for message in body.messages], tools)
        events = await converse(conversation, context, streamed=body.stream is not False)

        def fields(text: str, calls: Sequence[JsonMapping]) -> JsonObject:
            message: JsonObject = {"role": "assistant", "content": text}
            return {"message": {**message, "tool_calls": list(calls)} if calls else message}

        return await _answer(context, body, events, fields, with_context=False)


def _refuse_thinking(body: Generating) -> None:
    if body.think not in (None, False):
        raise ApiError(400, f"{body.model!r} does not support thinking")


def _refuse_with_raw(**fields: Any) -> None:
    for name, value in fields.items():
        if value:
            raise ApiError(400, f"raw takes the prompt as it is, so {name} can't be given with it")


def _chat(body: Generating, messages: Sequence[JsonMapping], tools: Sequence[JsonMapping] = ()) -> Chat:
    _refuse_thinking(body)
    return Chat(
        messages=messages,
        options=options_of(_settings(body), schema=_schema(body), tools=tools, top_logprobs=_top(body)),
    )


def _settings(body: Generating) -> JsonObject:
    return body.options.settings() if body.options else {}


def _parse_special(body: GenerateRequest) -> bool | None:
    given = body.parse_special
    return given if given is not None or body.options is None else body.options.parse_special


def _top(body: Generating) -> int | None:
    return (body.top_logprobs or 0) if body.logprobs or body.top_logprobs else None


def _schema(body: Generating) -> JsonMapping | None:
    if not body.format:
        return None
    if isinstance(body.format, dict):
        return body.format
    if body.format != "json":
        raise ApiError(400, f"format must be 'json' or a JSON schema, not {body.format[:80]!r}")
    return {"type": "object"}


def _dialog(body: GenerateRequest) -> list[dict[str, str]]:
    system = [{"role": "system", "content": body.system}] if body.system else []
    return [*system, {"role": "user", "content": body.prompt or ""}]


def _continued(body: GenerateRequest, loaded: LoadedModel) -> list[int]:
    """Return the ids of an earlier `context` and of the new prompt after it."""
    ids = loaded.llama.encode_chat(_dialog(body))
    bos = loaded.llama.tokenizer.bos_id
    # Where it stands once, it begins the text; ChatML checkpoints give that name to what begins each message.
    begins_text = ids[0] == bos and ids.count(bos) == 1
    return [*(body.context or ()), *(ids[1:] if begins_text else ids)]


def _message(message: OllamaMessage) -> JsonObject:
    if message.images:
        raise ApiError(400, "images are not supported: these models read text")
    calls = [
        {"id": call.id, "function": {"name": call.function.name, "arguments": call.function.arguments or {}}}
        for call in message.tool_calls or ()
    ]
    return {
        "role": message.role,
        "content": message.content if message.content is not None or calls else "",
        "name": message.tool_name,
        "tool_call_id": message.tool_call_id,
        "tool_calls": calls or None,
    }


async def _load(context: RequestContext, body: Generating, fields: JsonMapping) -> Response:
    """Load the model and say so; with a keep_alive of nothing, unload it."""
    models = context.server.models
    choice = models.choose(body.model)
    reason = "load"
    if body.keep_alive is not None and str(body.keep_alive) in ("0", "0.0", "0s", "0m"):
        await models.unload(choice.model.name)
        reason = "unload"
    else:
        await context.use(body.model, body.keep_alive)
    value = {"model": body.model or choice.name, "created_at": now(), **fields, "done": True, "done_reason": reason}
    return JSONResponse(value, headers=context.headers)


async def _answer(
    context: RequestContext, body: Generating, events: AsyncIterator[Event], fields: Fields, *, with_context: bool
) -> Response:
    head = {"model": body.model or context.loaded.choice.name}
    if body.stream is not False:
        parts = _stream(context, head, context.counted(events), fields, with_context)
        return context.stream(errors_as_events(parts, context.request, lines=True), JSON_LINES)
    [answer] = await context.gather(events, 1)
    assert answer.end is not None, "a gathered answer has ended"
    calls = [_call(call) for call in answer.calls]
    logprobs = {"logprobs": [_logprob_object(entry) for entry in answer.logprobs]} if answer.logprobs else {}
    return context.reply(
        {
            **head,
            "created_at": now(),
            **fields(answer.text, calls),
            **logprobs,
            **_last(context, answer.end, with_context),
        }
    )


async def _stream(
    context: RequestContext, head: JsonMapping, events: AsyncIterator[Event], fields: Fields, with_context: bool
) -> AsyncIterator[bytes]:
    async for event in events:
        if isinstance(event, PromptProgress):
            continue
        line: JsonObject = {**head, "created_at": now()}
        if isinstance(event, TextDelta):
            logprobs = {"logprobs": [_logprob_object(entry) for entry in event.logprobs]} if event.logprobs else {}
            line |= {**fields(event.text, ()), **logprobs, "done": False}
        elif isinstance(event, ToolCallEvent):
            line |= {**fields("", [_call(event)]), "done": False}
        else:
            line |= {**fields("", ()), **_last(context, event, with_context), **context.extension()}
        yield json_line(line)


def _last(context: RequestContext, end: AnswerEnd, with_context: bool) -> JsonObject:
    """Return what the last line says about counts and times, in nanoseconds."""
    done = end.completion
    last: JsonObject = {
        "done": True,
        "done_reason": end.reason if end.reason in ("length", "content_filter") else "stop",
        **({"refusal": end.refusal} if end.refusal else {}),
        "total_duration": _ns(context.elapsed_s),
        "load_duration": _ns(context.load_s),
        "prompt_eval_count": done.prompt_tokens,
        "prompt_eval_duration": _ns(end.prompt_s),
        "eval_count": len(done.token_ids),
        "eval_duration": _ns(end.decode_s),
    }
    # The tokens of a refused answer hold what nobody may see.
    if with_context and end.refusal is None:
        last["context"] = [*end.prompt, *done.token_ids, *context.loaded.end_of_turn]
    return last


def _call(call: ToolCallEvent) -> JsonObject:
    return {"id": call.id, "function": {"index": call.position, "name": call.name, "arguments": call.arguments or {}}}


def _logprob_object(entry: LogprobEntry) -> JsonObject:
    plain = {"token": entry.text, "logprob": entry.logprob, "bytes": list(entry.data)}
    others = [{"token": o.text, "logprob": o.logprob, "bytes": list(o.data)} for o in entry.alternatives]
    return {**plain, "top_logprobs": others} if others else plain


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
