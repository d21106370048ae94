"""POST /v1/completions. Source: https://platform.openai.com/docs/api-reference/completions."""

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response

from ...json_types import JsonObject
from ..core.answering import logprob_entry
from ..core.completion import Continuation, Prompt, complete
from ..core.events import AnswerEnd, CollectedAnswer, Event, LogprobEntry, TextDelta, usage
from ..core.loaded_model import LoadedModel
from ..core.request_context import RequestContext
from ..core.schema import options_of
from ..http.errors import ApiError
from ..http.streaming import COMMENT, DONE, EVENT_STREAM, errors_as_events, kept_alive, sse
from .chat import limit_choices, usage_object
from .schema import CompletionRequest

router = APIRouter(tags=["OpenAI"])
# What OpenAI takes where the request gives no max_tokens.
_MAX_TOKENS = 16


@router.post("/v1/completions")
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continue a text, or several."""
    continuation = _continuation(body)
    async with RequestContext(request) as context:
        context.ignore(body.ignored())
        count = len(continuation.prompts) * continuation.n
        limit_choices(context, count)
        loaded = await context.use(body.model, body.keep_alive)
        events = await complete(continuation, context, streamed=bool(body.stream))
        head = _CompletionObjects(loaded.choice.name)
        if body.stream:
            include_usage = bool(body.stream_options and body.stream_options.include_usage)
            echoed = _echoed(continuation, loaded) if body.echo else None
            parts = _stream(head, context.counted(events), continuation, include_usage, echoed)
            return context.stream(kept_alive(errors_as_events(parts, request), COMMENT), EVENT_STREAM)
        answers = await context.gather(events, count)
        choices = [_whole_choice(index, answer, body, loaded) for index, answer in enumerate(answers)]
        return context.reply(head(choices, usage=usage_object(usage(answers, continuation.n))))


def _continuation(body: CompletionRequest) -> Continuation:
    if body.suffix:
        raise ApiError(400, "suffix is not supported: Llama models have no fill-in-the-middle form", param="suffix")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise ApiError(400, "best_of is not supported: ask for n answers and choose", param="best_of")
    if body.echo and body.stream and body.logprobs is not None:
        raise ApiError(400, "echo with logprobs can't be streamed: leave out stream", param="stream")
    settings = {"max_tokens": _MAX_TOKENS} if body.max_tokens is None else {}
    settings |= body.settings()
    if body.logprobs is not None:
        settings["logprobs"] = body.logprobs
        if body.echo:
            settings["prompt_logprobs"] = body.logprobs
    constraint = body.response_format.constraint() if body.response_format else None
    return Continuation(
        prompts=as_prompts(body.prompt),
        options=options_of(settings, schema=constraint),
        n=body.n or 1,
        parse_special=body.parse_special,
    )


def _echoed(continuation: Continuation, loaded: LoadedModel) -> list[str]:
    """Return the prompt's text for each answer."""
    tokenizer = loaded.llama.tokenizer
    texts = [p if isinstance(p, str) else tokenizer.decode(list(p), control=False) for p in continuation.prompts]
    return [text for text in texts for _ in range(continuation.n)]


def as_prompts(prompt: str | list[str] | list[int] | list[list[int]] | None) -> list[Prompt]:
    """Return the prompts of the four shapes that `prompt` can have."""
    if prompt is None:
        return [""]
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise ApiError(400, "the list of prompts is empty", param="prompt")
    if isinstance(prompt[0], int):
        return [prompt]
    return list(prompt)


class _CompletionObjects:
    """What all chunks of one answer have in common."""

    def __init__(self, model: str) -> None:
        self.id = f"cmpl-{secrets.token_hex(12)}"
        self.created, self.model = int(time.time()), model

    def __call__(self, choices: list[JsonObject], **more: Any) -> JsonObject:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
            "choices": choices,
            **more,
        }


def _choice(index: int, text: str, reason: str | None, logprobs: JsonObject | None = None) -> JsonObject:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _whole_choice(index: int, answer: CollectedAnswer, body: CompletionRequest, loaded: LoadedModel) -> JsonObject:
    """Return an answer, behind its prompt where that is to be echoed."""
    tokenizer = loaded.llama.tokenizer
    assert answer.end is not None, "a gathered answer has ended"
    prompt = answer.end.prompt if body.echo else ()
    text = tokenizer.decode(prompt, control=False) + answer.text
    if body.logprobs is None:
        return _choice(index, text, answer.reason)
    known = answer.end.completion.prompt_logprobs or ()
    logprobs: list[LogprobEntry | None] = [logprob_entry(entry, tokenizer) for entry in known]
    first = [tokenizer.decode(prompt[:1])] if prompt else []
    return _choice(index, text, answer.reason, logprobs_object(first, [*logprobs, *answer.logprobs]))


def logprobs_object(first: list[str], logprobs: list[LogprobEntry | None], start: int = 0) -> JsonObject:
    """Return log-probabilities as the completions protocol has them; `first` is a first token, which has none."""
    entries = [None] * len(first) + logprobs
    tokens = first + [entry.text for entry in logprobs if entry is not None]
    offsets, at = [], start
    for token in tokens:
        offsets.append(at)
        at += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [entry.logprob if entry else None for entry in entries],
        "top_logprobs": [{o.text: o.logprob for o in entry.alternatives} if entry else None for entry in entries],
        "text_offset": offsets,
    }


async def _stream(
    head: _CompletionObjects,
    events: AsyncIterator[Event],
    continuation: Continuation,
    include_usage: bool,
    echoed: list[str] | None,
) -> AsyncIterator[bytes]:
    later: JsonObject = {"usage": None} if include_usage else {}
    answers = [CollectedAnswer() for _ in range(len(continuation.prompts) * continuation.n)]
    starts = [0] * len(answers)
    if echoed is not None:
        for index, text in enumerate(echoed):
            starts[index] = len(text)
            yield sse(head([_choice(index, text, None)], **later))
    async for event in events:
        answers[event.choice].add(event)
        if isinstance(event, TextDelta):
            logprobs = logprobs_object([], list(event.logprobs), starts[event.choice]) if event.logprobs else None
            starts[event.choice] += len(event.text)
            yield sse(head([_choice(event.choice, event.text, None, logprobs)], **later))
        elif isinstance(event, AnswerEnd):
            reason = answers[event.choice].reason
            yield sse(head([_choice(event.choice, "", reason)], **later))
    if include_usage:
        yield sse(head([], usage=usage_object(usage(answers, continuation.n))))
    yield DONE
