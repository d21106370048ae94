"""What keeps a server running: /health, /version, /metrics, /status."""

import math
import time

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from ..json_types import JsonObject
from ..library.catalogue import ModelEntry
from ..version import __version__
from .core.loaded_models import ModelSlot, memory_needed
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
        "models": [{"name": name, **_slot_status(slot)} for name, slot in slots],
    }


@router.get("/status/models")
def model_status(request: Request) -> JsonObject:
    """Say what each model is, what it needs in memory, which adapters fit it, whether it is loaded, and who guards."""
    server: Server = request.app.state.server
    catalogue, slots = server.models.catalogue, server.models.slots
    return {
        "manage": server.settings.manage,
        "budget_bytes": server.models.budget_bytes,
        "guard": None if server.models.guard is None else server.models.guard.name,
        "models": [
            {**_facts(model), "adapters": list(catalogue.adapters(model)), **_slot_status(slots.get(name))}
            for name, model in catalogue.models().items()
        ],
    }


def _facts(model: ModelEntry) -> JsonObject:
    return {
        "name": model.name,
        "size_bytes": model.size_bytes,
        "parameters": model.needs.parameters,
        "quantization": model.quantization_level,
        "context_length": model.config.max_position_embeddings,
        "needed_bytes": memory_needed(model),
    }


def _slot_status(slot: ModelSlot | None) -> JsonObject:
    """Return where a model stands; `expires_in_s` is None while it is used and where it stays for ever."""
    if slot is None:
        return {"state": "unloaded", "running": 0, "waiting": 0, "expires_in_s": None}
    left = slot.expires_s - time.monotonic()
    return {
        "state": "loaded" if slot.ready.done() else "loading",
        "running": slot.loaded.active,
        "waiting": slot.loaded.waiting,
        "expires_in_s": None if math.isinf(left) else max(0.0, round(left, 1)),
    }
