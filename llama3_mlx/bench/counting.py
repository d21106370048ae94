"""Counts what a computation does, from its graph: operations, those that start a kernel, bytes read.

On the GPU rotary embedding, norm and attention are one operation each; MLX's CPU back end builds them of several, so
that counts compare programs on one device and not devices.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

# These change how an array is looked at, or write into a stored one; no kernel runs over their whole input.
_VIEWS = frozenset(
    (
        "AsStrided",
        "Broadcast",
        "BroadcastAxes",
        "ExpandDims",
        "Flatten",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "StopGradient",
        "Transpose",
        "Unflatten",
    )
)
_WRITES = frozenset(("SliceUpdate", "DynamicSliceUpdate"))
_PICKS = frozenset(("Gather", "GatherAxis"))


@dataclass(frozen=True)
class Work:
    """`operations` of the graph, `launches` those of them that compute; `bytes_read` of weights and caches."""

    operations: int
    launches: int
    bytes_read: int


def count_work(function: Callable[..., Any], *inputs: mx.array) -> Work:
    """Count what `function(*inputs)` does; arrays that it holds (weights, caches) are what it reads."""
    entries: list[dict[str, Any]] = []
    mx.export_function(entries.append, function, *inputs)
    # Stored arrays (weights, caches) and views of them: the name, and the bytes that reading it costs.
    stored: dict[str, int] = {}
    for entry in entries:
        if entry["type"] == "constants":
            stored.update({name: array.nbytes for name, array in entry["constants"]})
    operations = launches = read = 0
    for entry in entries:
        if entry["type"] != "primitive":
            continue
        operations += 1
        name, (first, *_), outputs = entry["name"], entry["inputs"] or [("", (), mx.int32)], entry["outputs"]
        if name in _VIEWS or name in _WRITES:
            if first[0] in stored:
                stored.update({output[0]: min(_nbytes(output), stored[first[0]]) for output in outputs})
            launches += name in _WRITES
            continue
        launches += 1
        if name in _PICKS:
            read += sum(_nbytes(output) for output in outputs) if first[0] in stored else 0
        else:
            read += sum(stored.get(source, 0) for source, _, _ in entry["inputs"])
    return Work(operations, launches, read)


def weights(module: nn.Module) -> list[mx.array]:
    """Return the arrays of a module's parameters."""
    return list(dict(tree_flatten(module.parameters(), destination={})).values())


def _nbytes(described: tuple[str, tuple[int, ...], mx.Dtype]) -> int:
    _, shape, dtype = described
    return math.prod(shape) * dtype.size
