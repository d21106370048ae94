"""MLX's packed layout of quantized codes: a little-endian stream of bits in 32-bit words.

Source: `mlx.core.quantize`, whose packed words the tests compare with.
"""

import numpy as np


def pack_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return the words (R, C * bits / 32) uint32 of codes (R, C) uint8."""
    rows, columns = codes.shape
    if 8 % bits == 0:
        per_byte = 8 // bits
        packed = np.ascontiguousarray(codes[:, ::per_byte])
        for place in range(1, per_byte):
            packed |= codes[:, place::per_byte] << (place * bits)
        return packed.view(np.uint32)
    spread = np.unpackbits(codes[..., None], axis=-1, count=bits, bitorder="little")
    return np.packbits(spread.reshape(rows, columns * bits), axis=-1, bitorder="little").view(np.uint32)
