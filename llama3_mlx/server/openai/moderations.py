"""POST /v1/moderations, by a Llama Guard. Source: https://platform.openai.com/docs/api-reference/moderations.

The categories are the guard's own, by their titles; OpenAI's are those of its model. A server with a guard judges with
that where a request names no model, or one of OpenAI's, whose clients do so by default.
"""

import asyncio
import secrets

from fastapi import APIRouter, Request, Response

from ...json_types import JsonObject
from ...safety import Guard, Verdict
from ..core.request_context import RequestContext
from ..http.errors import ApiError
from .schema import ModerationRequest

router = APIRouter(tags=["OpenAI"])
_MAX_INPUTS = 256
# Source: https://platform.openai.com/docs/api-reference/moderations/create.
_OPENAI_MODELS = ("omni-moderation-", "text-moderation-")


@router.post("/v1/moderations")
async def moderations(body: ModerationRequest, request: Request) -> Response:
    """Judge texts as what users say."""
    texts = _texts(body)
    async with RequestContext(request) as context:
        context.ignore(body.ignored())
        own = context.server.models.guard
        if own is not None and (body.model in (None, own.name) or str(body.model).startswith(_OPENAI_MODELS)):
            loaded = await context.use_guard()
        else:
            loaded = await context.use(body.model, body.keep_alive)
        loaded.check_room(len(texts))
        guard = loaded.as_guard()
        verdicts = [await context.unless_gone(asyncio.to_thread(guard.check_text, text)) for text in texts]
        return context.reply(
            {
                "id": f"modr-{secrets.token_hex(12)}",
                "model": loaded.choice.name,
                "results": [_result(guard, verdict) for verdict in verdicts],
            }
        )


def _texts(body: ModerationRequest) -> list[str]:
    if isinstance(body.input, str):
        texts = [body.input]
    elif body.input and all(isinstance(part, str) for part in body.input):
        texts = [part for part in body.input if isinstance(part, str)]
    else:
        # Parts are one input together.
        parts = [part for part in body.input if not isinstance(part, str)]
        other = next((part.type for part in parts if part.type != "text" or part.text is None), None)
        if other is not None:
            raise ApiError(400, f"a Llama Guard of text can't judge a part of type {other!r}", param="input")
        texts = ["\n".join(part.text or "" for part in parts)]
    if not all(text.strip() for text in texts):
        raise ApiError(400, "the input holds an empty text", param="input")
    if len(texts) > _MAX_INPUTS:
        raise ApiError(400, f"the request has {len(texts)} inputs; at most {_MAX_INPUTS} are taken", param="input")
    return texts


def _result(guard: Guard, verdict: Verdict) -> JsonObject:
    titles = {category.code: category.title for category in guard.policy.categories}
    named = {category.code for category in verdict.categories}
    return {
        "flagged": verdict.flagged,
        "categories": {title: code in named for code, title in titles.items()},
        "category_scores": {title: verdict.category_scores[code] for code, title in titles.items()},
        "category_applied_input_types": {title: ["text"] for title in titles.values()},
    }
