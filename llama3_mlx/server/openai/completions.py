"""POST /v1/completions. Source: https://platform.openai.com/docs/api-reference/completions."""

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response

from ..core.answering import chance_of
from ..core.completion import Continuation, Prompt, complete
from ..core.events import Answer, Chance, Event, Text, usage
from ..core.served import Served
from ..core.turn import Turn
from ..http.errors import ApiError
from ..http.stream_failures import failing_softly
from ..http.streaming import COMMENT, DONE, EVENT_STREAM, kept_alive, sse
from .chat import limit_choices, usage_object
from .schema import CompletionRequest

router = APIRouter(tags=["OpenAI"])
# What OpenAI takes where the request gives no max_tokens.
_MAX_TOKENS = 16


@router.post("/v1/completions")
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continue a text, or several."""
    asked = _continuation(body)
    async with Turn(request) as turn:
        turn.ignore(body.ignored())
        count = len(asked.prompts) * asked.n
        limit_choices(turn, count)
        served = await turn.use(body.model, body.keep_alive)
        events = await complete(asked, served, turn.server.settings, turn.stack)
        head = _Head(served.choice.name)
        if body.stream:
            include_usage = bool(body.stream_options and body.stream_options.include_usage)
            echoed = _echoed(asked, served) if body.echo else None
            parts = _stream(head, turn.counted(events), asked, include_usage, echoed)
            return turn.stream(kept_alive(failing_softly(parts, request), COMMENT), EVENT_STREAM)
        answers = await turn.gather(events, count)
        choices = [_whole_choice(index, answer, body, served) for index, answer in enumerate(answers)]
        return turn.reply(head(choices, usage=usage_object(usage(answers, asked.n))))


def _continuation(body: CompletionRequest) -> Continuation:
    if body.suffix:
        raise ApiError(400, "suffix is not supported: Llama models have no fill-in-the-middle form", param="suffix")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise ApiError(400, "best_of is not supported: ask for n answers and choose", param="best_of")
    if body.echo and body.stream and body.logprobs is not None:
        raise ApiError(400, "echo with logprobs can't be streamed: leave out stream", param="stream")
    settings = body.settings()
    if body.logprobs is not None:
        settings["logprobs"] = body.logprobs
        if body.echo:
            settings["prompt_logprobs"] = body.logprobs
    most = _MAX_TOKENS if body.max_tokens is None else None
    form = body.response_format.form() if body.response_format else None
    return Continuation(prompts=as_prompts(body.prompt), settings=settings, n=body.n or 1, schema=form, at_most=most)


def _echoed(asked: Continuation, served: Served) -> list[str]:
    """Return the prompt's text for each answer."""
    tokenizer = served.llama.tokenizer
    texts = [p if isinstance(p, str) else tokenizer.decode(list(p), control=False) for p in asked.prompts]
    return [text for text in texts for _ in range(asked.n)]


def as_prompts(prompt: str | list[str] | list[int] | list[list[int]] | None) -> list[Prompt]:
    """Return the prompts of the four forms that a prompt can have."""
    if prompt is None:
        return [""]
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise ApiError(400, "the list of prompts is empty", param="prompt")
    if isinstance(prompt[0], int):
        return [prompt]
    return list(prompt)


class _Head:
    """What all chunks of one answer have in common."""

    def __init__(self, model: str) -> None:
        self.id = f"cmpl-{secrets.token_hex(12)}"
        self.created, self.model = int(time.time()), model

    def __call__(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self.id, "object": "text_completion", "created": self.created, "model": self.model,
            "system_fingerprint": None, "choices": choices, **more,
        }  # fmt: skip


def _choice(index: int, text: str, reason: str | None, logprobs: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _whole_choice(index: int, answer: Answer, body: CompletionRequest, served: Served) -> dict[str, Any]:
    """Return an answer, behind its prompt where that is to be echoed."""
    tokenizer = served.llama.tokenizer
    assert answer.end is not None, "a gathered answer has ended"
    prompt = answer.end.prompt if body.echo else ()
    text = tokenizer.decode(prompt, control=False) + answer.text
    if body.logprobs is None:
        return _choice(index, text, answer.reason)
    known = answer.end.completion.prompt_logprobs or ()
    chances: list[Chance | None] = [chance_of(entry, tokenizer) for entry in known]
    first = [tokenizer.decode(prompt[:1])] if prompt else []
    return _choice(index, text, answer.reason, logprobs_object(first, [*chances, *answer.chances]))


def logprobs_object(first: list[str], chances: list[Chance | None], start: int = 0) -> dict[str, Any]:
    """Return log-probabilities as the completions protocol has them; `first` is a first token, which has none."""
    entries = [None] * len(first) + chances
    tokens = first + [chance.text for chance in chances if chance is not None]
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
    head: _Head,
    events: AsyncIterator[Event],
    asked: Continuation,
    include_usage: bool,
    echoed: list[str] | None,
) -> AsyncIterator[bytes]:
    later: dict[str, Any] = {"usage": None} if include_usage else {}
    answers = [Answer() for _ in range(len(asked.prompts) * asked.n)]
    starts = [0] * len(answers)
    if echoed is not None:
        for index, text in enumerate(echoed):
            starts[index] = len(text)
            yield sse(head([_choice(index, text, None)], **later))
    async for event in events:
        answers[event.choice].add(event)
        if isinstance(event, Text):
            logprobs = logprobs_object([], list(event.chances), starts[event.choice]) if event.chances else None
            starts[event.choice] += len(event.text)
            yield sse(head([_choice(event.choice, event.text, None, logprobs)], **later))
        else:
            yield sse(head([_choice(event.choice, "", answers[event.choice].reason)], **later))
    if include_usage:
        yield sse(head([], usage=usage_object(usage(answers, asked.n))))
    yield DONE
