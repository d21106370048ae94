"""What keeps a server running: /health, /version, /metrics."""

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from ..json_types import JsonObject
from ..version import __version__
from .core.request_context import Server
from .http.metrics import CONTENT_TYPE

router = APIRouter(tags=["operations"])


@router.get("/health")
@router.head("/health", include_in_schema=False)
def health() -> dict[str, str]:
    """Say that the server is up."""
    return {"status": "ok"}


@router.get("/version")
def version() -> dict[str, str]:
    """Say which version runs."""
    return {"version": __version__}


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(request: Request) -> Response:
    """Give counts and times in Prometheus's text format."""
    return Response(request.app.state.server.metrics.text(), media_type=CONTENT_TYPE)


@router.get("/status")
def status(request: Request) -> JsonObject:
    """Say which models are in memory and what they hold."""
    import mlx.core as mx

    server: Server = request.app.state.server
    slots = server.models.slots.items()
    return {
        "version": __version__,
        "memory_bytes": mx.get_active_memory() + mx.get_cache_memory(),
        "active_bytes": mx.get_active_memory(),
        "budget_bytes": server.models.budget_bytes,
        "models": [
            {"name": name, "running": slot.loaded.active, "waiting": slot.loaded.waiting} for name, slot in slots
        ],
    }
