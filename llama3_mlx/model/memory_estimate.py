"""What a model needs, counted from its config alone: parameters, weight bytes, key/value bytes, memory at a context."""

from dataclasses import dataclass
from math import ceil, prod

import mlx.core as mx

from ..device import unpacked_fits, unpacks_products
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
    unpacked_bytes: int = 0
    """What is kept of unpacked matrices while the model generates."""

    @property
    def resident_bytes(self) -> int:
        """Everything that stays in memory whatever the context."""
        return self.weight_bytes + self.unpacked_bytes

    def at_context(self, tokens: int) -> int:
        """Return the bytes of weights and key/value cache with `tokens` in the context."""
        return self.resident_bytes + tokens * self.kv_bytes_per_token

    def longest_context(self, memory_bytes: int) -> int:
        """Return how many tokens fit beside the weights, a reserve left; 0 if the weights don't fit."""
        free = int(memory_bytes * (1 - RESERVE)) - self.resident_bytes
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
    return Needs(sum(map(prod, shapes.values())), weights, kv, kept_unpacked_bytes(config))


def kept_unpacked_bytes(config: ModelConfig) -> int:
    """Return the bytes of the matrices that are kept unpacked in float32 on this machine; 0 where none is."""
    if config.quantization is None or not unpacks_products():
        return 0
    shapes, multiplied = expected_tensors(config), 0
    for name, shape in shapes.items():
        is_product = config.tie_word_embeddings or not name.endswith("embed_tokens.weight")
        if is_product and _scheme(name, shape, config.quantization):
            multiplied += prod(shape) * mx.float32.size
    return multiplied if unpacked_fits(multiplied) else 0


def tensor_bytes(name: str, shape: tuple[int, ...], quantization: Quantization | None, float_bytes: int) -> int:
    """Return the bytes of one tensor: packed words, scales and biases if its module is quantized."""
    scheme = _scheme(name, shape, quantization)
    if scheme is None:
        return prod(shape) * float_bytes
    groups = prod(shape) // scheme.group_size
    return prod(shape) * scheme.bits // 8 + groups * (2 * float_bytes if scheme.mode == "affine" else 1)


def _scheme(name: str, shape: tuple[int, ...], quantization: Quantization | None) -> Scheme | None:
    if quantization is None or len(shape) != 2 or not name.endswith(".weight"):
        return None
    return quantization.scheme_for(name.removesuffix(".weight"))
