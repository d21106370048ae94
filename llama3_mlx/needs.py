"""What a model needs in memory before it is loaded, beside what this machine has."""

from dataclasses import dataclass
from pathlib import Path

from .checkpoint.folder import ModelFolder
from .device import working_memory_bytes
from .library.resolver import resolve_config
from .model.memory_estimate import estimate


@dataclass(frozen=True, kw_only=True)
class ModelNeeds:
    """What a model needs in memory, in bytes, and what this machine has."""

    weight_bytes: int
    kv_bytes_per_token: int
    context: int
    """Tokens that the model takes at most."""
    machine_bytes: int
    """What models may take on this machine."""
    longest_context: int
    """Tokens that fit this machine beside the weights, 0 where the weights don't."""
    unpacked_bytes: int = 0
    """What the CPU back end keeps of quantized matrices unpacked, where a model is small beside the memory."""

    def at_context(self, tokens: int) -> int:
        """Return the bytes of weights and KV cache with so many tokens in the context."""
        return self.weight_bytes + self.unpacked_bytes + tokens * self.kv_bytes_per_token


def estimate_needs(path_or_id: str | Path, dtype: str | None) -> ModelNeeds:
    """Return what `Llama.estimate` does."""
    config = ModelFolder(resolve_config(path_or_id)).stated_config
    needs = estimate(config, dtype)
    memory = working_memory_bytes()
    return ModelNeeds(
        weight_bytes=needs.weight_bytes,
        kv_bytes_per_token=needs.kv_bytes_per_token,
        context=config.max_position_embeddings,
        machine_bytes=memory,
        longest_context=min(config.max_position_embeddings, needs.longest_context(memory)),
        unpacked_bytes=needs.unpacked_bytes,
    )
