"""What keeps a server running: /health, /version, /metrics."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from ..version import __version__
from .metrics import CONTENT_TYPE

router = APIRouter(tags=["operations"])


@router.get("/health")
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


def memory() -> dict[str, Any]:
    """Return what MLX holds, in bytes."""
    import mlx.core as mx

    return {
        "active_bytes": mx.get_active_memory(),
        "cache_bytes": mx.get_cache_memory(),
        "peak_bytes": mx.get_peak_memory(),
    }
