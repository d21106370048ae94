"""Llama 3 on Apple's MLX: convert weights to 4 or 8 bits, generate, chat and fine-tune in unified memory."""

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .cache import CacheOptions
    from .completion import Completion, Piece, TokenLogprob
    from .engine.reply import AsyncStream, Stream
    from .errors import (
        CheckpointError,
        ConfigError,
        ContextLengthError,
        ConversionError,
        DialogError,
        HubError,
        Llama3MLXError,
        MemoryLimitError,
        MissingExtraError,
        RequestError,
        TokenizerError,
    )
    from .llama import Llama

_HOMES = {
    "AsyncStream": "engine.reply",
    "CacheOptions": "cache",
    "Llama": "llama",
    "Completion": "completion",
    "Piece": "completion",
    "Stream": "engine.reply",
    "TokenLogprob": "completion",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "ContextLengthError": "errors",
    "ConversionError": "errors",
    "DialogError": "errors",
    "HubError": "errors",
    "Llama3MLXError": "errors",
    "MemoryLimitError": "errors",
    "MissingExtraError": "errors",
    "RequestError": "errors",
    "TokenizerError": "errors",
}

__all__ = [
    "AsyncStream",
    "CacheOptions",
    "CheckpointError",
    "Completion",
    "ConfigError",
    "ContextLengthError",
    "ConversionError",
    "DialogError",
    "HubError",
    "Llama",
    "Llama3MLXError",
    "MemoryLimitError",
    "MissingExtraError",
    "Piece",
    "RequestError",
    "Stream",
    "TokenLogprob",
    "TokenizerError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that the command line starts without MLX."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
