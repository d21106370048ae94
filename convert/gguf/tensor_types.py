"""The types of a GGUF file's tensors: their blocks, their encoders, and which tensor of a model gets which.

Source: ggml `src/ggml-common.h`; llama.cpp `include/llama.h` (llama_ftype) and `src/llama-quant.cpp`, whose mixtures of
types and fallbacks these are.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ...model.config import ModelConfig
from ..quantization.recipes import gets_more_bits, head_path
from .k_quants import encode_k

# Values that are encoded at a time: the search for scales has several arrays of their size.
_STEP_VALUES = 2_000_000


@dataclass(frozen=True)
class TensorType:
    """Number of a type in the file, values in a block, bytes of a block."""

    number: int
    block: int
    block_bytes: int


TYPES = {
    "F32": TensorType(0, 1, 4),
    "F16": TensorType(1, 1, 2),
    "Q4_0": TensorType(2, 32, 18),
    "Q4_1": TensorType(3, 32, 20),
    "Q5_0": TensorType(6, 32, 22),
    "Q5_1": TensorType(7, 32, 24),
    "Q8_0": TensorType(8, 32, 34),
    "Q4_K": TensorType(12, 256, 144),
    "Q5_K": TensorType(13, 256, 176),
    "Q6_K": TensorType(14, 256, 210),
    "BF16": TensorType(30, 1, 2),
}
# What takes the place of a type whose blocks don't divide a row.
_FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "Q8_0": "F16", "BF16": "F16"}


@dataclass(frozen=True)
class FileType:
    """A kind of file: its number, the type of most matrices, of the sensitive ones, and of the head."""

    number: int
    base: str
    sensitive: str
    head: str


FILE_TYPES = {
    "f32": FileType(0, "F32", "F32", "F32"),
    "f16": FileType(1, "F16", "F16", "F16"),
    "bf16": FileType(32, "BF16", "BF16", "BF16"),
    "q8_0": FileType(7, "Q8_0", "Q8_0", "Q8_0"),
    "q6_k": FileType(18, "Q6_K", "Q6_K", "Q6_K"),
    "q5_k_m": FileType(17, "Q5_K", "Q6_K", "Q6_K"),
    "q5_k_s": FileType(16, "Q5_K", "Q5_K", "Q6_K"),
    "q4_k_m": FileType(15, "Q4_K", "Q6_K", "Q6_K"),
    "q4_1": FileType(3, "Q4_1", "Q4_1", "Q8_0"),
    "q4_0": FileType(2, "Q4_0", "Q4_0", "Q8_0"),
}


def tensor_type(name: str, shape: tuple[int, ...], file_type: FileType, config: ModelConfig) -> str:
    """Return the type of a tensor by its Hugging Face name; vectors stay in float32."""
    if len(shape) == 1:
        return "F32"
    if name == f"{head_path(config)}.weight":
        kind = file_type.head
    elif gets_more_bits(name.removesuffix(".weight"), config.num_hidden_layers):
        kind = file_type.sensitive
    else:
        kind = file_type.base
    while shape[1] % TYPES[kind].block:
        kind = _FALLBACKS.get(kind, "F16")
    return kind


def encode(rows: mx.array, kind: str) -> np.ndarray:
    """Return the bytes of float32 rows (R, C) in a block type."""
    if not kind.endswith("_K"):
        import gguf

        return gguf.quantize(np.array(rows), gguf.GGMLQuantizationType[kind])
    step = max(1, _STEP_VALUES // rows.shape[1])
    return np.concatenate([encode_k(rows[at : at + step], kind) for at in range(0, rows.shape[0], step)])
