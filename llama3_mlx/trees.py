"""Trees of arrays as lists of names and arrays, typed."""

from typing import Any, cast

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

# Arrays in nested dicts and lists, as MLX passes parameters and gradients.
Tree = Any


def flatten(tree: Tree) -> list[tuple[str, mx.array]]:
    """Return the arrays of a tree by their dotted names."""
    return cast(list[tuple[str, mx.array]], tree_flatten(tree))


def unflatten(named: list[tuple[str, mx.array]]) -> Tree:
    """Return the tree of arrays by their dotted names; an empty one for none."""
    return tree_unflatten(named) if named else {}


def scalar(array: mx.array) -> float:
    """Return the value of a scalar array."""
    return float(cast(float, array.item()))
