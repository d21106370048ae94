"""POST /v1/completions. Source: https://platform.openai.com/docs/api-reference/completions."""

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response

from .completing import Continuation, Prompt, complete
from .errors import ApiError
from .events import Answer, Event, Text, usage
from .openai_chat import limit_choices, usage_object
from .openai_schema import CompletionRequest
from .sse import COMMENT, DONE, EVENT_STREAM, kept_alive, sse
from .stream_failures import failing_softly
from .turn import Turn

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
        events = complete(asked, served, turn.server.settings, turn.stack)
        head = _Head(served.choice.name)
        if body.stream:
            include_usage = bool(body.stream_options and body.stream_options.include_usage)
            parts = _stream(head, turn.counted(events), asked, include_usage)
            return turn.stream(kept_alive(failing_softly(parts, request), COMMENT), EVENT_STREAM)
        answers = await turn.gather(events, count)
        choices = [_choice(index, answer.text, answer.reason) for index, answer in enumerate(answers)]
        return turn.reply(head(choices, usage=usage_object(usage(answers, asked.n))))


def _continuation(body: CompletionRequest) -> Continuation:
    if body.suffix:
        raise ApiError(400, "suffix is not supported: Llama models have no fill-in-the-middle form", param="suffix")
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise ApiError(400, "best_of is not supported: ask for n answers and choose", param="best_of")
    settings = {"max_tokens": _MAX_TOKENS, **body.settings()}
    return Continuation(prompts=as_prompts(body.prompt), settings=settings, n=body.n or 1)


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


def _choice(index: int, text: str, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}


async def _stream(
    head: _Head, events: AsyncIterator[Event], asked: Continuation, include_usage: bool
) -> AsyncIterator[bytes]:
    later: dict[str, Any] = {"usage": None} if include_usage else {}
    answers = [Answer() for _ in range(len(asked.prompts) * asked.n)]
    async for event in events:
        answers[event.choice].add(event)
        if isinstance(event, Text):
            yield sse(head([_choice(event.choice, event.text, None)], **later))
        else:
            yield sse(head([_choice(event.choice, "", answers[event.choice].reason)], **later))
    if include_usage:
        yield sse(head([], usage=usage_object(usage(answers, asked.n))))
    yield DONE
