"""Data-parallel training over the processes of `mlx.launch`; alone, everything here does nothing."""

import os
from functools import cache
from typing import Any

import mlx.core as mx

from ..trees import Tree, flatten, unflatten


@cache
def _group() -> Any:
    # Without a launcher there is nothing to join, and looking for one costs time.
    launched = any(name in os.environ for name in ("MLX_RANK", "MLX_HOSTFILE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"))
    return mx.distributed.init() if launched else None


def size() -> int:
    """Return the number of processes."""
    group = _group()
    return group.size() if group else 1


def rank() -> int:
    """Return this process's number; 0 writes the files."""
    group = _group()
    return group.rank() if group else 0


def all_sum(tree: Tree) -> Any:
    """Return the tree of arrays summed over the processes, in one message for all."""
    if size() == 1:
        return tree
    flat = flatten(tree)
    joined = mx.concatenate([array.astype(mx.float32).reshape(-1) for _, array in flat])
    summed = mx.distributed.all_sum(joined, group=_group(), stream=mx.cpu)
    mx.eval(summed)
    at, made = 0, []
    for name, array in flat:
        made.append((name, summed[at : at + array.size].reshape(array.shape).astype(array.dtype)))
        at += array.size
    return unflatten(made)


def any_true(value: bool) -> bool:
    """Return whether any process says so."""
    if size() == 1:
        return value
    votes = mx.distributed.all_sum(mx.array(float(value)), group=_group(), stream=mx.cpu)
    return bool((votes > 0).item())
