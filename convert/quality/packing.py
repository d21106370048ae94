"""MLX's packed layout of quantised codes: a little-endian stream of bits in 32-bit words, as `mlx.core.quantize`."""

import numpy as np


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return the words (R, C * bits / 32) uint32 of codes (R, C) uint8."""
    rows, columns = codes.shape
    if 32 % bits == 0:
        per_word = 32 // bits
        words = codes.reshape(rows, columns // per_word, per_word).astype(np.uint32)
        return np.bitwise_or.reduce(words << (np.arange(per_word, dtype=np.uint32) * bits), axis=-1)
    spread = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")
    return np.packbits(spread.reshape(rows, columns * bits), axis=-1, bitorder="little").view(np.uint32)
