"""Fine-tuning: LoRA and its kin, from data to an adapter that runs here, in mlx-lm, in PEFT and in llama.cpp."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..adapters.adapter_set import AdapterSet, load_adapter
    from ..errors import AdapterError, DataError, TrainingError
    from .best_of import best_of_n
    from .drafting.entry import train_draft
    from .fusing.fuse import FuseReport, fuse
    from .preference import dpo, kto, orpo
    from .reinforcement import grpo
    from .settings import DpoSettings, DraftSettings, GrpoSettings, KtoSettings, OrpoSettings, TrainSettings
    from .sft import train
    from .training.callbacks import Callback, StepReport, ValidationReport
    from .training.job import TrainResult

# No module is called like a function: importing it would hide the function.
_HOMES = {
    "AdapterError": ".errors",
    "AdapterSet": ".adapters.adapter_set",
    "Callback": "training.callbacks",
    "DataError": ".errors",
    "DpoSettings": "settings",
    "DraftSettings": "settings",
    "FuseReport": "fusing.fuse",
    "GrpoSettings": "settings",
    "KtoSettings": "settings",
    "OrpoSettings": "settings",
    "StepReport": "training.callbacks",
    "TrainResult": "training.job",
    "TrainSettings": "settings",
    "TrainingError": ".errors",
    "ValidationReport": "training.callbacks",
    "best_of_n": "best_of",
    "dpo": "preference",
    "fuse": "fusing.fuse",
    "grpo": "reinforcement",
    "kto": "preference",
    "load_adapter": ".adapters.adapter_set",
    "orpo": "preference",
    "train": "sft",
    "train_draft": "drafting.entry",
}

__all__ = [
    "AdapterError",
    "AdapterSet",
    "Callback",
    "DataError",
    "DpoSettings",
    "DraftSettings",
    "FuseReport",
    "GrpoSettings",
    "KtoSettings",
    "OrpoSettings",
    "StepReport",
    "TrainResult",
    "TrainSettings",
    "TrainingError",
    "ValidationReport",
    "best_of_n",
    "dpo",
    "fuse",
    "grpo",
    "kto",
    "load_adapter",
    "orpo",
    "train",
    "train_draft",
]


# Type checkers would take any name at all for one of the package's.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
