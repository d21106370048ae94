"""GET /v1/models. Source: https://platform.openai.com/docs/api-reference/models."""

from datetime import UTC, datetime

from fastapi import APIRouter, Request

from ...json_types import JsonObject
from ...library.catalogue import ModelChoice, ModelEntry
from ..core.loaded_models import all_choices

router = APIRouter(tags=["OpenAI"])


@router.get("/v1/models")
@router.head("/v1/models", include_in_schema=False)
def list_models(request: Request) -> JsonObject:
    """List the models, and each with each adapter; in Anthropic's shape where Anthropic's header asks for it."""
    choices = all_choices(request.app.state.server.models.catalogue)
    if _wants_anthropic(request):
        data = [_anthropic_model(choice) for choice in choices]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
        return {"data": data, "has_more": False, **ends}
    return {"object": "list", "data": [_model(choice) for choice in choices]}


@router.get("/v1/models/{name:path}")
@router.head("/v1/models/{name:path}", include_in_schema=False)
def show_model(name: str, request: Request) -> JsonObject:
    """Show one model; 404 if there is none of that name."""
    choice = request.app.state.server.models.catalogue.choose(name)
    return _anthropic_model(choice) if _wants_anthropic(request) else _model(choice)


def _wants_anthropic(request: Request) -> bool:
    """Whether an Anthropic client asks: the path is both protocols'."""
    return "anthropic-version" in request.headers


def _model(choice: ModelChoice) -> JsonObject:
    context = choice.model.config.max_position_embeddings
    return {
        "id": choice.name,
        "object": "model",
        "created": int(choice.model.modified_s),
        "owned_by": owner(choice.model),
        # As vLLM's and OpenRouter's clients look for it.
        "max_model_len": context,
        "context_length": context,
    }


def _anthropic_model(choice: ModelChoice) -> JsonObject:
    """Return a model in Anthropic's shape. Source: https://docs.anthropic.com/en/api/models-list."""
    created = datetime.fromtimestamp(int(choice.model.modified_s), UTC).isoformat().replace("+00:00", "Z")
    context = choice.model.config.max_position_embeddings
    return {
        "type": "model",
        "id": choice.name,
        "display_name": choice.name,
        "created_at": created,
        "max_input_tokens": context,
        "max_tokens": context,
        "capabilities": None,
        "lifecycle": "active",
    }


def owner(model: ModelEntry) -> str:
    """Return the first half of OWNER/NAME, else "local"."""
    return model.name.partition("/")[0] if "/" in model.name else "local"
