"""Llama 3's own tokenizer for tests: Meta's implementation, and a model folder with the same vocabulary."""

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from llama3_mlx.convert.sources.tokenizer_json import save_tokenizer_json

MODEL_FILE = Path(str(files("llama_models") / "llama3" / "tokenizer.model"))


@cache
def meta_tokenizer() -> Any:
    """Meta's tokenizer, from the package llama-models."""
    from llama_models.llama3.tokenizer import Tokenizer

    return Tokenizer(MODEL_FILE)


def save_llama3_tokenizer(folder: Path, *, json_only: bool = True) -> Path:
    """Write Llama 3's tokenizer files into a folder."""
    save_tokenizer_json(MODEL_FILE, folder)
    if json_only:
        (folder / "tokenizer.model").unlink()
    return folder
