"""Query and key rows between the interleaved order of Meta and GGUF and the halves of Hugging Face."""

from collections.abc import Callable

import numpy as np


def read_halves(read: Callable[[int, int], np.ndarray], head_dim: int, start: int, stop: int) -> np.ndarray:
    """Return rows in halves, x0 x1 … y0 y1 …, out of a tensor whose heads are interleaved: x0 y0 x1 y1 …."""
    first = start // head_dim * head_dim
    heads = read(first, -(-stop // head_dim) * head_dim)
    halves = heads.reshape(-1, head_dim // 2, 2, *heads.shape[1:]).swapaxes(1, 2).reshape(heads.shape)
    return np.ascontiguousarray(halves[start - first : stop - first])
