"""What a run trains and leaves in its folder: an adapter, or a draft head."""

from pathlib import Path
from typing import Protocol

from ...model.transformer import LlamaForCausalLM
from ..layers.dropout import Noise


class Product(Protocol):
    """Loads the model with what is trained in it, and writes and reads that."""

    def load(self) -> tuple[LlamaForCausalLM, Noise]:
        """Return the model, whose trainable parameters are what is trained, and the source of its dropout."""

    def save(self, model: LlamaForCausalLM, folder: Path, base: str) -> None:
        """Write what is trained; `base` is what the model is called there."""

    def restore(self, model: LlamaForCausalLM, folder: Path) -> None:
        """Put what is in the folder into the model."""
