"""Embeddings out of a generating model: the mean over all positions of the last hidden state, scaled to length 1.

Llama models aren't trained for embeddings; this serves to compare texts roughly with the model that is loaded anyway.
"""

from collections.abc import Sequence
from functools import partial

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...generation.limits import check_fits
from ..http.errors import ApiError
from .loaded_model import LoadedModel


async def embed(loaded: LoadedModel, prompts: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
    """Return a vector (D,) of length 1 for each prompt of token ids; raises RequestError for one that is too long."""
    for prompt in prompts:
        check_fits(prompt, loaded.llama.config.max_position_embeddings)
    return [await loaded.call(partial(_mean_hidden, loaded, prompt)) for prompt in prompts]


def check_dimensions(requested: int | None, loaded: LoadedModel) -> None:
    """Refuse another size than the model has: its first numbers alone mean nothing."""
    size = loaded.llama.config.hidden_size
    if requested not in (None, size):
        raise ApiError(400, f"dimensions must be {size}, the model's own, not {requested}", param="dimensions")


def _mean_hidden(loaded: LoadedModel, prompt: Sequence[int]) -> NDArray[np.float32]:
    hidden = loaded.llama.model.hidden(mx.array([list(prompt)], mx.int32))[0]
    mean = hidden.astype(mx.float32).mean(axis=0)
    unit = mean / mx.maximum(mx.linalg.norm(mean, stream=mx.cpu), 1e-12)
    return np.array(unit, dtype=np.float32)
