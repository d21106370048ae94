"""Llama 3 on Apple's MLX: convert weights to 4 or 8 bits, generate, chat and fine-tune in unified memory."""

import importlib
from typing import TYPE_CHECKING, Any

from .blas import load_blas
from .version import __version__

if TYPE_CHECKING:
    from .applications import (
        AvailableModel,
        available_models,
        download,
        go_offline,
        watch_memory,
    )
    from .engine.reply import AsyncStream, Stream
    from .errors import (
        CheckpointError,
        ConfigError,
        ContextLengthError,
        ConversionError,
        DialogError,
        EngineClosedError,
        ForkError,
        HubError,
        Llama3MLXError,
        MemoryLimitError,
        MissingExtraError,
        RequestError,
        StructureError,
        TokenizerError,
    )
    from .generation.completion import Completion, DraftCounts, Piece, TokenLogprob
    from .generation.tool_loop import ToolRun
    from .kv_cache import CacheOptions
    from .llama import Llama
    from .loader import LoadProgress
    from .needs import ModelNeeds
    from .structured.grammar import Grammar, compile_grammar
    from .structured.result import parse_result
    from .tools.call import ToolCall
    from .tools.functions import acall_tool, call_tool, tool_spec
    from .tools.parser import ToolCalls, ToolCallStream, parse_tool_calls

_HOMES = {
    "AvailableModel": "applications",
    "available_models": "applications",
    "download": "applications",
    "go_offline": "applications",
    "watch_memory": "applications",
    "AsyncStream": "engine.reply",
    "CacheOptions": "kv_cache",
    "Llama": "llama",
    "LoadProgress": "loader",
    "ModelNeeds": "needs",
    "Completion": "generation.completion",
    "DraftCounts": "generation.completion",
    "Piece": "generation.completion",
    "Stream": "engine.reply",
    "TokenLogprob": "generation.completion",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "ContextLengthError": "errors",
    "ConversionError": "errors",
    "DialogError": "errors",
    "EngineClosedError": "errors",
    "ForkError": "errors",
    "HubError": "errors",
    "Llama3MLXError": "errors",
    "MemoryLimitError": "errors",
    "MissingExtraError": "errors",
    "RequestError": "errors",
    "StructureError": "errors",
    "TokenizerError": "errors",
    "Grammar": "structured.grammar",
    "compile_grammar": "structured.grammar",
    "parse_result": "structured.result",
    "ToolCall": "tools.call",
    "ToolCalls": "tools.parser",
    "ToolCallStream": "tools.parser",
    "parse_tool_calls": "tools.parser",
    "ToolRun": "generation.tool_loop",
    "acall_tool": "tools.functions",
    "call_tool": "tools.functions",
    "tool_spec": "tools.functions",
}

__all__ = [
    "AsyncStream",
    "AvailableModel",
    "CacheOptions",
    "CheckpointError",
    "Completion",
    "ConfigError",
    "ContextLengthError",
    "ConversionError",
    "DialogError",
    "DraftCounts",
    "EngineClosedError",
    "ForkError",
    "Grammar",
    "HubError",
    "Llama",
    "Llama3MLXError",
    "LoadProgress",
    "MemoryLimitError",
    "MissingExtraError",
    "ModelNeeds",
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
    "available_models",
    "call_tool",
    "compile_grammar",
    "download",
    "go_offline",
    "parse_result",
    "parse_tool_calls",
    "tool_spec",
    "watch_memory",
    "__version__",
]


# Before any module imports MLX.
load_blas()


# Type checkers would take any name at all for one of the package's.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first asked for, so that the command line starts without MLX."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
