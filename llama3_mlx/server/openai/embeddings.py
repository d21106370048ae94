"""POST /v1/embeddings. Source: https://platform.openai.com/docs/api-reference/embeddings."""

import base64
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from ..core.completion import prompt_ids
from ..core.embedding import check_dimensions, embed
from ..core.request_context import RequestContext
from ..http.errors import ApiError
from .completions import as_prompts
from .schema import EmbeddingRequest

router = APIRouter(tags=["OpenAI"])
# As OpenAI has it.
_MAX_INPUTS = 2048


@router.post("/v1/embeddings")
async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
    """Embed texts: the mean of the last hidden states, scaled to length 1."""
    prompts = as_prompts(body.input)
    if len(prompts) > _MAX_INPUTS:
        raise ApiError(400, f"the request has {len(prompts)} inputs; at most {_MAX_INPUTS} are taken", param="input")
    if not all(prompts):
        raise ApiError(400, "the input holds an empty text", param="input")
    async with RequestContext(request) as context:
        context.ignore(body.ignored())
        loaded = await context.use(body.model, body.keep_alive)
        check_dimensions(body.dimensions, loaded)
        ids = await loaded.prepare(lambda: [prompt_ids(prompt, loaded) for prompt in prompts])
        vectors = await context.unless_gone(embed(loaded, ids))
        count = sum(map(len, ids))
        context.log_values(prompt_tokens=count)
        data = [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, body.encoding_format)}
            for index, vector in enumerate(vectors)
        ]
        used = {"prompt_tokens": count, "total_tokens": count}
        return context.reply({"object": "list", "data": data, "model": loaded.choice.name, "usage": used})


def _encoded(vector: NDArray[np.float32], encoding: str | None) -> Any:
    """Return the numbers, or their little-endian bytes in base64."""
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
