"""Where this package keeps what it makes for a user: `LLAMA3_MLX_HOME`, else ~/.llama3-mlx."""

import os
from pathlib import Path

from ..errors import RequestError

EMBEDDED_MODEL = "SmolLM2-135M-Instruct-4bit"


def home_folder() -> Path:
    """Return the folder of models, adapters, caches and chats; it may not exist yet."""
    return Path(os.environ.get("LLAMA3_MLX_HOME") or "~/.llama3-mlx").expanduser()


def models_folder() -> Path:
    """Return the folder of the models in the store."""
    return home_folder() / "models"


def adapters_folder() -> Path:
    """Return the folder of the adapters that are known by name."""
    return home_folder() / "adapters"


def chats_folder() -> Path:
    """Return the folder of the dialogs that `chat --resume` finds."""
    return home_folder() / "chats"


def prefix_folder() -> Path:
    """Return the folder of the prefix cache on disk."""
    return home_folder() / "cache" / "prefixes"


def encoded_folder() -> Path:
    """Return the folder of the training examples that are encoded already."""
    return home_folder() / "cache" / "encoded"


def prefix_cache_bytes() -> int:
    """Return its size limit: `LLAMA3_MLX_CACHE_GB`, by default 8; 0 switches it off, and with it encoded examples."""
    text = os.environ.get("LLAMA3_MLX_CACHE_GB") or "8"
    try:
        size = float(text)
    except ValueError:
        size = -1.0
    if not 0 <= size < 1e6:
        raise RequestError(f"LLAMA3_MLX_CACHE_GB must be a number of gigabytes, 0 for no cache on disk, not {text!r}")
    return int(size * 1e9)
