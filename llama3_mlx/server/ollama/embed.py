"""POST /api/embed and the older /api/embeddings. Source: https://github.com/ollama/ollama/blob/main/docs/api.md."""

import time

from fastapi import APIRouter, Request, Response

from ..core.completion import prompt_ids
from ..core.embedding import embed
from ..core.turn import Turn
from ..http.errors import ApiError
from ..openai.embeddings import check_dimensions
from .schema import EmbedRequest, OldEmbedRequest

router = APIRouter(tags=["Ollama"])


@router.post("/api/embed")
async def embed_texts(body: EmbedRequest, request: Request) -> Response:
    """Embed texts; one that is too long is refused, whatever `truncate` says."""
    inputs = [body.input] if isinstance(body.input, str) else body.input or []
    if any(not text for text in inputs):
        raise ApiError(400, "the input holds an empty text")
    began = time.perf_counter()
    async with Turn(request) as turn:
        turn.ignore(body.ignored())
        served = await turn.use(body.model, body.keep_alive)
        check_dimensions(body.dimensions, served)
        ids = await served.prepare(lambda: [prompt_ids(text, served) for text in inputs])
        vectors = await turn.unless_gone(embed(served, ids))
        return turn.reply({
            "model": body.model or served.choice.name,
            "embeddings": [vector.tolist() for vector in vectors],
            "total_duration": int((time.perf_counter() - began) * 1e9),
            "load_duration": int(turn.load_s * 1e9),
            "prompt_eval_count": sum(map(len, ids)),
        })  # fmt: skip


@router.post("/api/embeddings")
async def embed_one(body: OldEmbedRequest, request: Request) -> Response:
    """Embed one text, in the older form."""
    async with Turn(request) as turn:
        turn.ignore(body.ignored())
        served = await turn.use(body.model, body.keep_alive)
        texts = [body.prompt] if body.prompt else []
        ids = await served.prepare(lambda: [prompt_ids(text, served) for text in texts])
        vectors = await turn.unless_gone(embed(served, ids))
        return turn.reply({"embedding": vectors[0].tolist() if vectors else []})
