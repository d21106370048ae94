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
        EngineClosedError,
        HubError,
        Llama3MLXError,
        MemoryLimitError,
        MissingExtraError,
        RequestError,
        StructureError,
        TokenizerError,
    )
    from .grammar import Grammar, compile_grammar
    from .llama import Llama
    from .structure import parse_result
    from .tool_call import ToolCall
    from .tool_calls import ToolCalls, ToolCallStream, parse_tool_calls
    from .tool_run import ToolRun
    from .tools import acall_tool, call_tool, tool_spec

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
    "EngineClosedError": "errors",
    "HubError": "errors",
    "Llama3MLXError": "errors",
    "MemoryLimitError": "errors",
    "MissingExtraError": "errors",
    "RequestError": "errors",
    "StructureError": "errors",
    "TokenizerError": "errors",
    "Grammar": "grammar",
    "compile_grammar": "grammar",
    "parse_result": "structure",
    "ToolCall": "tool_call",
    "ToolCalls": "tool_calls",
    "ToolCallStream": "tool_calls",
    "parse_tool_calls": "tool_calls",
    "ToolRun": "tool_run",
    "acall_tool": "tools",
    "call_tool": "tools",
    "tool_spec": "tools",
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
    "EngineClosedError",
    "Grammar",
    "HubError",
    "Llama",
    "Llama3MLXError",
    "MemoryLimitError",
    "MissingExtraError",
    "Piece",
    "RequestError",
    "Stream",
    "StructureError",
    "TokenLogprob",
    "TokenizerError",
    "ToolCall",
    "ToolCallStream",
    "ToolCalls",
    "ToolRun",
    "acall_tool",
    "call_tool",
    "compile_grammar",
    "parse_result",
    "parse_tool_calls",
    "tool_spec",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that the command line starts without MLX."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
