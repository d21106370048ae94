"""Runs one decoder layer in its four parts, so that the inputs of each group of matrices can be seen.

Calibration activations are the hidden states of the calibration text, as a list of batches (B, L, D). Two of them run
side by side: the exact ones, and those that have been through the layers quantized so far.
"""

from collections.abc import Callable, Iterable

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...model.transformer import MLP, Attention, Rope, TransformerBlock

Activations = list[mx.array]


def attention_outputs(attention: Attention, inputs: Activations, rope: Rope) -> Activations:
    """Return the inputs of o_proj, (B, L, H * head_dim), for normed inputs."""
    projection, attention["o_proj"] = attention["o_proj"], nn.Identity()
    try:
        return evaluated(attention(x, rope, "causal", None) for x in inputs)
    finally:
        attention["o_proj"] = projection


def hidden_outputs(mlp: MLP, inputs: Activations) -> Activations:
    """Return the inputs of down_proj, (B, L, F), for normed inputs."""
    projection, mlp["down_proj"] = mlp["down_proj"], nn.Identity()
    try:
        return evaluated(mlp(x) for x in inputs)
    finally:
        mlp["down_proj"] = projection


def through(block: TransformerBlock, activations: Activations, rope: Rope) -> Activations:
    """Return the activations after a layer."""
    return evaluated(block(x, rope, "causal", None) for x in activations)


def mapped(module: Callable[[mx.array], mx.array], activations: Activations) -> Activations:
    """Return the activations with a module applied to each batch."""
    return evaluated(module(x) for x in activations)


def added(activations: Activations, other: Activations) -> Activations:
    """Return the sum of two activations."""
    return evaluated(x + y for x, y in zip(activations, other, strict=True))


def subtracted(activations: Activations, other: Activations) -> Activations:
    """Return the difference of two activations."""
    return evaluated(x - y for x, y in zip(activations, other, strict=True))


def evaluated(batches: Iterable[mx.array]) -> Activations:
    """Return the batches, each evaluated before the next so that one batch's intermediates are in memory."""
    done = []
    for batch in batches:
        mx.eval(batch)
        done.append(batch)
    return done


def moments(left: Activations, right: Activations | None = None) -> np.ndarray:
    """Return E[x yᵀ] over all tokens of two activations (of one with itself), float32."""
    total = mx.array(0.0)
    tokens = 0
    for x, y in zip(left, left if right is None else right, strict=True):
        flat = x.reshape(-1, x.shape[-1])
        total = total + flat.T @ y.reshape(-1, y.shape[-1])
        tokens += flat.shape[0]
        mx.eval(total)
    return np.array(total) / tokens


def channel_rms(activations: Activations) -> np.ndarray:
    """Return each channel's root mean square."""
    total, tokens = mx.array(0.0), 0
    for x in activations:
        total = total + x.square().sum(axis=(0, 1))
        tokens += x.shape[0] * x.shape[1]
        mx.eval(total)
    return np.sqrt(np.array(total) / tokens)
