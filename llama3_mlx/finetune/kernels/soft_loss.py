"""Cross entropy with a distribution as the target, chunk by chunk, and what drafts of the head would come to.

As in chunked_loss.py, the gradients are made while a chunk's logits are there, and the backward pass scales them.
"""

from typing import Any

import mlx.core as mx

from ...trees import Tree, flatten, unflatten
from .chunked_loss import Head
from .exponential import exp


def soft_head_loss(
    head: Head, params: Tree, h: mx.array, targets: mx.array, weights: mx.array, *, mass: mx.array, chunk: int
) -> tuple[mx.array, mx.array, mx.array]:
    """Return the sum of weights * cross entropy, each position's most likely token (n,), and its overlap (n,).

    `head(params, h)` gives logits (n, V) of hidden states (n, D); targets (n, V) float32 are probabilities. The overlap
    is the sum over tokens of the lesser of the head's probability and `mass` (n,) times the target's: the probability
    that speculative sampling accepts a token drawn from the head. Only the loss has gradients, those of `h` and
    `params`.
    Source of the overlap: https://arxiv.org/abs/2211.17192, section 3.1.
    """
    flat = flatten(params)
    names = [name for name, _ in flat]

    def logits_of(h: mx.array, *arrays: mx.array) -> list[mx.array]:
        return [head(unflatten(list(zip(names, arrays, strict=True))), h)]

    @mx.custom_function
    def losses(
        h: mx.array, targets: mx.array, weights: mx.array, mass: mx.array, *arrays: mx.array
    ) -> tuple[mx.array, ...]:
        total, sums = mx.array(0.0), [mx.zeros_like(array) for array in arrays]
        pieces: list[tuple[mx.array, mx.array, mx.array]] = []
        for start in range(0, h.shape[0], chunk):
            at = slice(start, start + chunk)
            part = h[at]
            if pieces:
                # One chunk at a time.
                part = mx.depends([part], [pieces[-1][2], total, *sums])[0]
            logits = logits_of(part, *arrays)[0]
            losses, best, overlap, slopes = _of_chunk(logits.astype(mx.float32), targets[at], mass[at])
            total = total + (losses * weights[at]).sum()
            down = (slopes * weights[at, None]).astype(logits.dtype)
            _, grads = mx.vjp(logits_of, [part, *arrays], [down])
            pieces.append((best, overlap, grads[0]))
            sums = [old + new for old, new in zip(sums, grads[1:], strict=True)]
        best, overlap, grad = (mx.concatenate(list(each)) for each in zip(*pieces, strict=True))
        return (total, best, overlap, grad, *sums)

    @losses.vjp
    def losses_vjp(primals: Tree, cotangents: Tree, outputs: Tree) -> tuple[mx.array, ...]:
        scale: mx.array = cotangents[0]
        grad_h, *grads = ((scale * grad).astype(grad.dtype) for grad in outputs[3:])
        return (grad_h, *(mx.zeros_like(each) for each in primals[1:4]), *grads)

    outputs: Any = losses(h, targets, weights, mass, *(array for _, array in flat))
    return outputs[0], mx.stop_gradient(outputs[1]), mx.stop_gradient(outputs[2])


def _of_chunk(logits: mx.array, targets: mx.array, mass: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Return losses (n,), most likely tokens (n,), overlaps (n,) and d loss / d logits = softmax - target (n, V)."""
    largest = logits.max(axis=-1, keepdims=True)
    exponentials = exp(logits - largest)
    sums = exponentials.sum(axis=-1, keepdims=True)
    probabilities = exponentials / sums
    # The target's probabilities sum to one.
    losses = (mx.log(sums) + largest)[:, 0] - (targets * logits).sum(axis=-1)
    overlap = mx.minimum(probabilities, targets * mass[:, None]).sum(axis=-1)
    return losses, mx.argmax(logits, axis=-1), overlap, probabilities - targets
