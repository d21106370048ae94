"""Llama 3 on Apple's MLX: convert weights to 4 or 8 bits, generate, chat and fine-tune in unified memory."""

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .completion import Completion, Piece, Stream
    from .errors import (
        CheckpointError,
        ConfigError,
        ContextLengthError,
        ConversionError,
        DialogError,
        HubError,
        Llama3MLXError,
        MissingExtraError,
        RequestError,
        TokenizerError,
    )
    from .llama import Llama

_HOMES = {
    "Llama": "llama",
    "Completion": "completion",
    "Piece": "completion",
    "Stream": "completion",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "ContextLengthError": "errors",
    "ConversionError": "errors",
    "DialogError": "errors",
    "HubError": "errors",
    "Llama3MLXError": "errors",
    "MissingExtraError": "errors",
    "RequestError": "errors",
    "TokenizerError": "errors",
}

__all__ = [
    "CheckpointError",
    "Completion",
    "ConfigError",
    "ContextLengthError",
    "ConversionError",
    "DialogError",
    "HubError",
    "Llama",
    "Llama3MLXError",
    "MissingExtraError",
    "Piece",
    "RequestError",
    "Stream",
    "TokenizerError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that the command line starts without MLX."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
