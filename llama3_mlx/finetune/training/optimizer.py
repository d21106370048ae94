"""Optimizers by name, the learning rate of each step, and the norm of gradients."""

import math
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_map

from ...trees import Tree, flatten
from ..settings import RunSettings


def make_optimizer(settings: RunSettings) -> optim.Optimizer:
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


def global_norm(grads: Tree) -> mx.array:
    """Return the square root of the sum of all squares, a float32 scalar."""
    # In the order of names: a tree that was saved and read may have another, and sums depend on it.
    named = sorted(flatten(grads), key=lambda item: item[0])
    squares = [mx.square(grad.astype(mx.float32)).sum() for _, grad in named]
    return mx.sqrt(sum(squares, mx.array(0.0)))


def clipped(grads: Tree, norm: mx.array, limit: float) -> Any:
    """Return the gradients scaled down so that their norm is at most `limit` (0: none)."""
    if not limit:
        return grads
    factor = mx.minimum(limit / (norm + 1e-12), 1.0)
    return tree_map(lambda grad: grad * factor, grads)


def warmup_steps(warmup: float, total: int) -> int:
    """Return the steps of warm-up: a share of the total, or a number from 1 on; fewer than the total."""
    return min(round(warmup * total) if warmup < 1 else round(warmup), max(0, total - 1))


def learning_rate(step: int, total: int, peak: float, kind: str, warmup: int) -> float:
    """Return the rate of step `step` of `total`, counted from 0: up in a line, then along `kind` down to zero.

    The first step's rate is not zero and the last one's neither, so that no step is in vain.
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if kind == "constant":
        return peak
    share = (step - warmup) / max(1, total - warmup)
    return peak * (1 - share if kind == "linear" else (1 + math.cos(math.pi * share)) / 2)
