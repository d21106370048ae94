"""Optimizers by name, the norm of gradients, and state that can be saved."""

from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_map

from ...trees import flatten
from ..settings import TrainSettings


def make_optimizer(settings: TrainSettings) -> optim.Optimizer:
    """Return MLX's optimizer of that name; its learning rate is set before each step."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adamw":
        return optim.AdamW(rate, weight_decay=decay, bias_correction=True)
    if settings.optimizer == "adafactor":
        return optim.Adafactor(rate, scale_parameter=False, relative_step=False, weight_decay=decay)
    if settings.optimizer == "lion":
        return optim.Lion(rate, weight_decay=decay)
    if settings.optimizer == "muon":
        return optim.Muon(rate, weight_decay=decay)
    return optim.SGD(rate, momentum=0.9, weight_decay=decay)


def global_norm(grads: Any) -> mx.array:
    """Return the square root of the sum of all squares, a float32 scalar."""
    # In the order of names: a tree that was saved and read may have another, and sums depend on it.
    named = sorted(flatten(grads), key=lambda item: item[0])
    squares = [mx.square(grad.astype(mx.float32)).sum() for _, grad in named]
    return mx.sqrt(sum(squares, mx.array(0.0)))


def clipped(grads: Any, norm: mx.array, limit: float) -> Any:
    """Return the gradients scaled down so that their norm is at most `limit` (0: none)."""
    if not limit:
        return grads
    factor = mx.minimum(limit / (norm + 1e-12), 1.0)
    return tree_map(lambda grad: grad * factor, grads)
