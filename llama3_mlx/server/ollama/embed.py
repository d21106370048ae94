"""POST /api/embed and the older /api/embeddings. Source: https://github.com/ollama/ollama/blob/main/docs/api.md."""

import time

from fastapi import APIRouter, Request, Response

from ..core.completion import prompt_ids
from ..core.embedding import check_dimensions, embed
from ..core.request_context import RequestContext
from ..http.errors import ApiError
from .schema import EmbedRequest, OldEmbedRequest

router = APIRouter(tags=["Ollama"])


@router.post("/api/embed")
async def embed_texts(body: EmbedRequest, request: Request) -> Response:
    """Embed texts; one that is too long is refused, whatever `truncate` says."""
    inputs = [body.input] if isinstance(body.input, str) else body.input or []
    if any(not text for text in inputs):
        raise ApiError(400, "the input holds an empty text")
    began = time.perf_counter()
    async with RequestContext(request) as context:
        context.ignore(body.ignored())
        loaded = await context.use(body.model, body.keep_alive)
        check_dimensions(body.dimensions, loaded)
        ids = await loaded.prepare(lambda: [prompt_ids(text, loaded) for text in inputs])
        vectors = await context.unless_gone(embed(loaded, ids))
        return context.reply(
            {
                "model": body.model or loaded.choice.name,
                "embeddings": [vector.tolist() for vector in vectors],
                "total_duration": int((time.perf_counter() - began) * 1e9),
                "load_duration": int(context.load_s * 1e9),
                "prompt_eval_count": sum(map(len, ids)),
            }
        )


@router.post("/api/embeddings")
async def embed_one(body: OldEmbedRequest, request: Request) -> Response:
    """Embed one text, in the older form."""
    async with RequestContext(request) as context:
        context.ignore(body.ignored())
        loaded = await context.use(body.model, body.keep_alive)
        texts = [body.prompt] if body.prompt else []
        ids = await loaded.prepare(lambda: [prompt_ids(text, loaded) for text in texts])
        vectors = await context.unless_gone(embed(loaded, ids))
        return context.reply({"embedding": vectors[0].tolist() if vectors else []})
