"""POST /v1/embeddings. Source: https://platform.openai.com/docs/api-reference/embeddings."""

import base64
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from ..core.completion import prompt_ids
from ..core.embedding import embed
from ..core.served import Served
from ..core.turn import Turn
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
    async with Turn(request) as turn:
        turn.ignore(body.ignored())
        served = await turn.use(body.model, body.keep_alive)
        check_dimensions(body.dimensions, served)
        ids = await served.prepare(lambda: [prompt_ids(prompt, served) for prompt in prompts])
        vectors = await turn.unless_gone(embed(served, ids))
        count = sum(map(len, ids))
        turn.note(prompt_tokens=count)
        data = [
            {"object": "embedding", "index": index, "embedding": _encoded(vector, body.encoding_format)}
            for index, vector in enumerate(vectors)
        ]
        used = {"prompt_tokens": count, "total_tokens": count}
        return turn.reply({"object": "list", "data": data, "model": served.choice.name, "usage": used})


def check_dimensions(asked: int | None, served: Served) -> None:
    """Refuse another size than the model has: its first numbers alone mean nothing."""
    size = served.llama.config.hidden_size
    if asked not in (None, size):
        raise ApiError(400, f"dimensions must be {size}, the model's own, not {asked}", param="dimensions")


def _encoded(vector: NDArray[np.float32], form: str | None) -> Any:
    """Return the numbers, or their little-endian bytes in base64."""
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
