"""Where this package keeps what it makes for a user: `LLAMA3_MLX_HOME`, else ~/.llama3-mlx."""

import os
from pathlib import Path

EMBEDDED_MODEL = "SmolLM2-135M-Instruct-4bit"


def home_folder() -> Path:
    """Return the folder of models, caches and histories; it may not exist yet."""
    return Path(os.environ.get("LLAMA3_MLX_HOME") or "~/.llama3-mlx").expanduser()


def models_folder() -> Path:
    """Return the folder that converted models are kept in when no other place is named."""
    return home_folder() / "models"
