"""Fine-tuning: LoRA and its kin, from data to an adapter that runs here, in mlx-lm, in PEFT and in llama.cpp."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapters import load_adapter
    from .errors import AdapterError, DataError, TrainingError
    from .job import TrainResult
    from .settings import TrainSettings
    from .train import train

_HOMES = {
    "AdapterError": "errors",
    "DataError": "errors",
    "TrainResult": "job",
    "TrainSettings": "settings",
    "TrainingError": "errors",
    "load_adapter": "adapters",
    "train": "train",
}

__all__ = ["AdapterError", "DataError", "TrainResult", "TrainSettings", "TrainingError", "load_adapter", "train"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
