"""The application: all routes, and what is around them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ..errors import Llama3MLXError
from ..json_types import JsonObject
from ..library.catalogue import Catalogue
from ..safety.shield import Shield, defects
from ..version import __version__
from . import operations, page, tokens
from .anthropic import messages as anthropic
from .core.loaded_models import LoadedModels
from .core.request_context import CLIENT_GONE, ClientGoneError, Server
from .http.errors import ApiError, as_api_error, error_response
from .http.logs import LOGGER, log
from .http.metrics import Metrics
from .http.middleware import ServerMiddleware
from .ollama import (
    embed as ollama_embed,
)
from .ollama import (
    generate as ollama_generate,
)
from .ollama import (
    manage as ollama_manage,
)
from .ollama import (
    models as ollama_models,
)
from .openai import (
    chat as openai_chat,
)
from .openai import (
    completions as openai_completions,
)
from .openai import (
    embeddings as openai_embeddings,
)
from .openai import (
    models as openai_models,
)
from .openai import (
    moderations as openai_moderations,
)
from .openai import (
    responses,
)
from .openai.responses_store import ResponseStore
from .settings import ServerSettings

ROUTES = (
    openai_chat,
    openai_completions,
    responses,
    openai_embeddings,
    openai_moderations,
    openai_models,
    ollama_generate,
    ollama_models,
    ollama_embed,
    ollama_manage,
    anthropic,
    tokens,
    operations,
    page,
)


def make_app(settings: ServerSettings, catalogue: Catalogue) -> FastAPI:
    """Return the application that serves the models of `catalogue`."""
    metrics = Metrics()
    shield = Shield() if settings.shield else None
    server = Server(settings, LoadedModels(catalogue, settings, metrics), metrics, shield)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.ensure_future(server.models.sweep())
        if shield is not None:
            for language, reason in (await asyncio.to_thread(defects)).items():
                log("not checked by the shield", level=logging.WARNING, language=language, reason=reason)
        try:
            yield
        finally:
            sweeper.cancel()
            await asyncio.gather(sweeper, return_exceptions=True)
            await server.models.close()

    app = FastAPI(
        title="llama3-mlx",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        description="Llama 3 on MLX behind OpenAI's, Ollama's and Anthropic's protocols.",
    )
    app.state.server = server
    app.state.responses = ResponseStore()
    for module in ROUTES:
        app.include_router(module.router)
    _answer_errors(app)
    app.add_middleware(ServerMiddleware, settings=settings, metrics=metrics)
    return app


def _answer_errors(app: FastAPI) -> None:
    """Have every error answered in the shape of its protocol."""

    def answer(request: Request, error: ApiError) -> Response:
        return error_response(request.url.path, error, request.state.request_id)

    @app.exception_handler(ApiError)
    def refused(request: Request, error: ApiError) -> Response:
        if error.status == 429:
            request.app.state.server.metrics.refused.add()
        return answer(request, error)

    @app.exception_handler(Llama3MLXError)
    def package_error(request: Request, error: Llama3MLXError) -> Response:
        return answer(request, as_api_error(error))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, _validation_error(error))

    @app.exception_handler(HTTPException)
    def http_error(request: Request, error: HTTPException) -> Response:
        messages = {404: f"there is nothing at {request.url.path[:200]}", 405: f"{request.method} is not allowed here"}
        known = ApiError(
            error.status_code, messages.get(error.status_code, str(error.detail)), headers=error.headers or {}
        )
        return answer(request, known)

    @app.exception_handler(ClientGoneError)
    def client_gone(_: Request, __: ClientGoneError) -> Response:
        return Response(status_code=CLIENT_GONE)

    @app.exception_handler(Exception)
    def unexpected(request: Request, error: Exception) -> Response:
        LOGGER.log(logging.ERROR, "unexpected error", exc_info=error)
        return answer(request, ApiError(500, "the server met an error of its own; its log says more"))


def _validation_error(error: RequestValidationError) -> ApiError:
    """Return the first thing that is wrong with a body, by the path of its field."""
    first: JsonObject = error.errors()[0]
    path = [str(part) for part in first["loc"] if part != "body"]
    fields = [part for part in path if (part.replace("_", "").isalnum() and part.islower()) or part.isdigit()]
    if first["type"] == "refused":
        return ApiError(400, first["msg"], param=first["ctx"]["name"], code="unsupported_value")
    where = ".".join(fields) or "the body"
    return ApiError(400, f"{where}: {first['msg']}", param=fields[0] if fields else None, code="invalid_value")
