"""GET /v1/models. Source: https://platform.openai.com/docs/api-reference/models."""

from typing import Any

from fastapi import APIRouter, Request

from ...library.catalogue import Catalogue, ModelChoice, ModelEntry

router = APIRouter(tags=["OpenAI"])


@router.get("/v1/models")
def list_models(request: Request) -> dict[str, Any]:
    """List the models, and each with each adapter."""
    return {
        "object": "list",
        "data": [_model(choice) for choice in all_choices(request.app.state.server.models.catalogue)],
    }


@router.get("/v1/models/{name:path}")
def show_model(name: str, request: Request) -> dict[str, Any]:
    """Show one model; 404 if there is none of that name."""
    return _model(request.app.state.server.models.catalogue.choose(name))


def all_choices(catalogue: Catalogue) -> list[ModelChoice]:
    """Return everything that a request can name."""
    models = catalogue.models().values()
    return [ModelChoice(model, adapter) for model in models for adapter in (None, *catalogue.adapters(model))]


def _model(choice: ModelChoice) -> dict[str, Any]:
    return {
        "id": choice.name,
        "object": "model",
        "created": int(choice.model.modified_s),
        "owned_by": owner(choice.model),
    }


def owner(model: ModelEntry) -> str:
    """Return the first half of OWNER/NAME, else "local"."""
    return model.name.partition("/")[0] if "/" in model.name else "local"
