"""What a model needs, counted from its config alone: parameters, weight bytes, key/value bytes, memory at a context."""

from dataclasses import dataclass
from math import ceil, prod

from ..dtypes import DTYPES
from .config import ModelConfig
from .parameters import expected_tensors
from .quantization import Quantization, Scheme

# Left for the system, other applications and the activations of one prefill chunk.
RESERVE = 0.15


@dataclass(frozen=True)
class Needs:
    """Memory of a model in bytes; the key/value cache grows by `kv_bytes_per_token`."""

    parameters: int
    weight_bytes: int
    kv_bytes_per_token: int

    def at_context(self, tokens: int) -> int:
        """Return the bytes of weights and key/value cache with `tokens` in the context."""
        return self.weight_bytes + tokens * self.kv_bytes_per_token

    def longest_context(self, memory_bytes: int) -> int:
        """Return how many tokens fit beside the weights, a reserve left; 0 if the weights don't fit."""
        free = int(memory_bytes * (1 - RESERVE)) - self.weight_bytes
        return max(0, free // self.kv_bytes_per_token)

    def memory_for(self, tokens: int) -> int:
        """Return the memory in which a context of so many tokens fits beside the weights, the reserve included."""
        return ceil(self.at_context(tokens) / (1 - RESERVE))


def estimate(config: ModelConfig, dtype: str | None = None) -> Needs:
    """Count what `config` needs when its floating-point parts are kept in `dtype` (default: as stored)."""
    float_bytes = DTYPES[dtype or config.dtype or "float16"].size
    shapes = expected_tensors(config)
    weights = sum(tensor_bytes(name, shape, config.quantization, float_bytes) for name, shape in shapes.items())
    kv = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * float_bytes
    return Needs(sum(map(prod, shapes.values())), weights, kv)


def tensor_bytes(name: str, shape: tuple[int, ...], quantization: Quantization | None, float_bytes: int) -> int:
    """Return the bytes of one tensor: packed words, scales and biases if its module is quantized."""
    scheme: Scheme | None = None
    if quantization and len(shape) == 2 and name.endswith(".weight"):
        scheme = quantization.scheme_for(name.removesuffix(".weight"))
    if scheme is None:
        return prod(shape) * float_bytes
    groups = prod(shape) // scheme.group_size
    return prod(shape) * scheme.bits // 8 + groups * (2 * float_bytes if scheme.mode == "affine" else 1)
