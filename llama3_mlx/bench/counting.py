"""Counts what a computation does, from its graph: operations, those that start a kernel, bytes read.

Counted as a GPU runs it, on every device: rotary embedding, norm and attention are one launch each, and so is what
`mx.compile` fuses.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..json_types import JsonObject
from .fused import fused_operations

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
# silu(gate) * up: three primitives of a graph, which every program here compiles into one kernel.
_SILU, _SILU_FUSES = "Sigmoid", 2
_BUILDS = 60
_PICKS = frozenset(("Gather", "GatherAxis"))


@dataclass(frozen=True)
class Work:
    """`operations` of the graph, `launches` those of them that compute; `bytes_read` of weights and caches."""

    operations: int
    launches: int
    bytes_read: int


def count_work(function: Callable[..., Any], *inputs: mx.array) -> Work:
    """Count what `function(*inputs)` does; arrays that it holds (weights, caches) are what it reads."""
    entries: list[JsonObject] = []
    with fused_operations(reads=True):
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
        launches += 1 - (_SILU_FUSES if name == _SILU else 0)
        if name in _PICKS:
            read += sum(_nbytes(output) for output in outputs) if first[0] in stored else 0
        else:
            read += sum(stored.get(source, 0) for source, _, _ in entry["inputs"])
    return Work(operations, launches, read)


def host_seconds(function: Callable[..., mx.array], *inputs: mx.array) -> float:
    """Return the CPU time in which the host builds the graph of `function(*inputs)`: the least of several builds.

    On fast GPUs with small models it bounds the rate of decoding.
    """
    best = math.inf
    with fused_operations(reads=False):
        for _ in range(_BUILDS):
            began = time.thread_time()
            function(*inputs)
            best = min(best, time.thread_time() - began)
    return best


def weights(module: nn.Module) -> list[mx.array]:
    """Return the arrays of a module's parameters."""
    return list(dict(tree_flatten(module.parameters(), destination={})).values())


def _nbytes(described: tuple[str, tuple[int, ...], mx.Dtype]) -> int:
    _, shape, dtype = described
    return math.prod(shape) * dtype.size
