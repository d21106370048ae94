"""Ollama's list of models and what each is: tags, ps, show, version.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md.
"""

import math
import time
from functools import lru_cache

from fastapi import APIRouter, Request

from ...chat.dialog import load_dialog
from ...json_types import JsonObject
from ...library.catalogue import DEFAULT_TAG, ModelChoice, ModelEntry
from ...tokenizer.loading import load_tokenizer
from ..core.loaded_models import LoadedModels, ModelSlot, all_choices
from .schema import Named
from .timestamps import at

router = APIRouter(tags=["Ollama"])
# The level of Ollama's API that is spoken here; clients compare it with what they need.
API_VERSION = "0.20.0"
_FOR_EVER = "2318-01-01T00:00:00Z"


@router.get("/api/version")
@router.head("/api/version", include_in_schema=False)
def version() -> dict[str, str]:
    """Say which version of Ollama's API this is."""
    return {"version": API_VERSION}


@router.get("/api/tags")
@router.head("/api/tags", include_in_schema=False)
def tags(request: Request) -> JsonObject:
    """List the models."""
    return {"models": [_listed(choice) for choice in all_choices(_models(request).catalogue)]}


@router.get("/api/ps")
async def ps(request: Request) -> JsonObject:
    """List the models in memory."""
    return {"models": [_running(slot) for slot in _models(request).slots.values()]}


@router.post("/api/show")
def show(body: Named, request: Request) -> JsonObject:
    """Show what a model is."""
    choice = _models(request).catalogue.choose(body.chosen)
    template = _template(choice.model, choice.model.digest)
    return {
        "license": "",
        "modelfile": f"# llama3-mlx\nFROM {choice.name}\n",
        "parameters": "",
        "template": template or "",
        "details": _details(choice),
        "model_info": _model_info(choice.model),
        "capabilities": ["completion", *(["tools"] if template and "tools" in template else [])],
        "modified_at": at(choice.model.modified_s),
    }


def tagged(choice: ModelChoice) -> str:
    """Return the name as Ollama writes it, with a tag."""
    return choice.name if choice.adapter else f"{choice.name}:{DEFAULT_TAG}"


def _models(request: Request) -> LoadedModels:
    models: LoadedModels = request.app.state.server.models
    return models


def _listed(choice: ModelChoice) -> JsonObject:
    return {
        "name": tagged(choice),
        "model": tagged(choice),
        "modified_at": at(choice.model.modified_s),
        "size": choice.model.size_bytes,
        "digest": choice.digest,
        "details": _details(choice),
    }


def _running(slot: ModelSlot) -> JsonObject:
    choice = slot.loaded.choice
    left = slot.expires_s - time.monotonic()
    return {
        **_listed(choice),
        "size": slot.needed_bytes,
        "size_vram": slot.needed_bytes,
        "expires_at": _FOR_EVER if math.isinf(left) else at(time.time() + left),
        "context_length": choice.model.config.max_position_embeddings,
    }


def _details(choice: ModelChoice) -> JsonObject:
    return {
        "parent_model": choice.model.name if choice.adapter else "",
        "format": "mlx",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": _in_short(choice.model.needs.parameters),
        "quantization_level": choice.model.quantization_level,
    }


def _in_short(count: int) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return str(count)


def _model_info(model: ModelEntry) -> JsonObject:
    """Return the facts by GGUF's keys, which is what clients look for."""
    config = model.config
    return {
        "general.architecture": "llama",
        "general.basename": model.name,
        "general.parameter_count": model.needs.parameters,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.block_count": config.num_hidden_layers,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.freq_base": config.rope_theta,
        "llama.vocab_size": config.vocab_size,
    }


@lru_cache(maxsize=64)
def _template(model: ModelEntry, digest: str) -> str | None:  # noqa: ARG001 - the digest renews the entry
    dialog = load_dialog(model.folder, load_tokenizer(model.folder))
    return dialog.template.source if dialog else None
