"""Cross entropy of hidden states, chunk by chunk: logits of all positions are never in memory at once.

Llama 3's vocabulary makes logits the largest thing in training. Here the head runs on the positions that count, a
chunk at a time, and the gradients of the loss are made while a chunk's logits are still there; what is kept is the
loss and the gradients, which is why the backward pass has nothing to do but scale them.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from ...device import back_end
from ...model.transformer import LlamaForCausalLM
from ...trees import Tree, flatten, unflatten
from .exponential import exp

# Trained parameters of the head and hidden states (n, D) to logits (n, V).
Head = Callable[[Any, mx.array], mx.array]


def chunk_size(vocab_size: int, row_length: int) -> int:
    """Return how many positions a chunk holds: a multiple of 32 whose logits fit its bytes, at least 32.

    It is at most a row: batches are filled up to whole chunks, and a small vocabulary's would be mostly filling.
    """
    return max(32, min(back_end().loss_chunk_bytes // (4 * vocab_size), row_length) // 32 * 32)


def head_function(model: LlamaForCausalLM) -> tuple[Head, Any]:
    """Return the head and its trained parameters; an empty tree if it is frozen, as it mostly is."""
    if "lm_head" in model:
        layer = model.lm_head

        def own(parameters: Tree, h: mx.array) -> mx.array:
            layer.update(parameters)
            return layer(h)

        return own, layer.trainable_parameters()
    embedding = model.model.embed_tokens

    def tied(parameters: Tree, h: mx.array) -> mx.array:
        embedding.update(parameters)
        return embedding.as_linear(h)

    return tied, embedding.trainable_parameters()


def token_losses(logits: mx.array, targets: mx.array) -> mx.array:
    """Return -log softmax(logits)[target] of (n, V) and (n,), (n,) float32."""
    logits = logits.astype(mx.float32)
    return mx.logsumexp(logits, axis=-1) - mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]


def head_loss(
    head: Head, params: Tree, h: mx.array, targets: mx.array, weights: mx.array, *, chunk: int | None = None
) -> mx.array:
    """Return the sum of weights * cross entropy over positions, a float32 scalar.

    `head(params, h)` gives logits (n, V) of hidden states (n, D); `params` is a tree of its trained parameters, empty
    if it is frozen. targets (n,), weights (n,) float32. The gradient is with respect to `h` and `params`, and exact.
    `chunk` is a number of positions; the last chunk may be shorter.
    """
    flat = flatten(params)
    names = [name for name, _ in flat]

    def rebuilt(arrays: list[mx.array]) -> Any:
        return unflatten(list(zip(names, arrays, strict=True)))

    size = chunk or chunk_size(_vocabulary(head, params, h), h.shape[0])

    @mx.custom_function
    def losses(h: mx.array, targets: mx.array, weights: mx.array, *arrays: mx.array) -> tuple[mx.array, ...]:
        return _forward(head, rebuilt, size, h, targets, weights, list(arrays))

    @losses.vjp
    def losses_vjp(primals: Tree, cotangents: Tree, outputs: Tree) -> tuple[mx.array, ...]:
        _, targets, weights, *_ = primals
        scale: mx.array = cotangents[0]
        grad_h, *grads = outputs[1:]
        scaled = [(scale * grad).astype(grad.dtype) for grad in (grad_h, *grads)]
        return (scaled[0], mx.zeros_like(targets), mx.zeros_like(weights), *scaled[1:])

    outputs: Tree = losses(h, targets, weights, *(array for _, array in flat))
    return outputs[0]


def head_token_losses(head: Head, params: Tree, h: mx.array, targets: mx.array, *, chunk: int) -> mx.array:
    """Return the cross entropy of each position, (n,) float32, for losses that weigh positions only later.

    A position's loss depends on its own hidden state alone, so that its gradient can be made at once and scaled in
    the backward pass. With a trained head the chunks are made again instead.
    """
    if flatten(params):
        return _trained_head_token_losses(head, params, h, targets, chunk)

    @mx.custom_function
    def losses(h: mx.array, targets: mx.array) -> tuple[mx.array, mx.array]:
        parts: list[mx.array] = []
        grads: list[mx.array] = []
        for start in range(0, h.shape[0], chunk):
            part, ids = h[start : start + chunk], targets[start : start + chunk]
            if parts:
                part = mx.depends([part], [parts[-1], grads[-1]])[0]
            loss, grad, _ = _chunk(head, lambda _: {}, part, ids, mx.ones(part.shape[0]), [])
            parts.append(loss)
            grads.append(grad)
        return mx.concatenate(parts), mx.concatenate(grads)

    @losses.vjp
    def losses_vjp(primals: Tree, cotangents: Tree, outputs: Tree) -> tuple[mx.array, mx.array]:
        grad = outputs[1]
        return (cotangents[0][:, None] * grad).astype(grad.dtype), mx.zeros_like(primals[1])

    outputs: Tree = losses(h, targets)
    return outputs[0]


def _trained_head_token_losses(head: Head, params: Tree, h: mx.array, targets: mx.array, chunk: int) -> mx.array:
    """Return the cross entropy of each position; the backward pass makes each chunk's logits again."""
    flat = flatten(params)
    names = [name for name, _ in flat]

    def rebuilt(arrays: list[mx.array]) -> Any:
        return unflatten(list(zip(names, arrays, strict=True)))

    @mx.custom_function
    def losses(h: mx.array, targets: mx.array, *arrays: mx.array) -> mx.array:
        parts: list[mx.array] = []
        for start in range(0, h.shape[0], chunk):
            part = h[start : start + chunk]
            if parts:
                part = mx.depends([part], [parts[-1]])[0]
            parts.append(token_losses(head(rebuilt(list(arrays)), part), targets[start : start + chunk]))
        return mx.concatenate(parts)

    @losses.vjp
    def losses_vjp(primals: Tree, cotangent: mx.array, _: mx.array) -> tuple[mx.array, ...]:
        h, targets, *arrays = primals
        grads = _forward(head, rebuilt, chunk, h, targets, cotangent, arrays)[1:]
        return (grads[0], mx.zeros_like(targets), *grads[1:])

    outputs: Tree = losses(h, targets, *(array for _, array in flat))
    return outputs


def _vocabulary(head: Head, params: Tree, h: mx.array) -> int:
    # Nothing is computed: only the shape of the lazy result is used.
    return head(params, h[:1]).shape[-1]


def _forward(
    head: Head,
    rebuilt: Callable[[list[mx.array]], Any],
    size: int,
    h: mx.array,
    targets: mx.array,
    weights: mx.array,
    arrays: list[mx.array],
) -> tuple[mx.array, ...]:
    """Return the loss and its gradients with respect to h and the arrays."""
    total, sums = mx.array(0.0), [mx.zeros_like(array) for array in arrays]
    pieces: list[mx.array] = []
    for start in range(0, h.shape[0], size):
        part, ids = h[start : start + size], targets[start : start + size]
        weight = weights[start : start + size]
        if pieces:
            # One chunk at a time: without this the scheduler may hold the logits of many.
            part = mx.depends([part], [pieces[-1], total, *sums])[0]
        loss, grad, grads = _chunk(head, rebuilt, part, ids, weight, arrays)
        total = total + (loss * weight).sum()
        pieces.append(grad)
        sums = [old + new for old, new in zip(sums, grads, strict=True)]
    return (total, mx.concatenate(pieces) if pieces else h, *sums)


def _chunk(
    head: Head,
    rebuilt: Callable[[list[mx.array]], Any],
    h: mx.array,
    targets: mx.array,
    weights: mx.array,
    arrays: list[mx.array],
) -> tuple[mx.array, mx.array, list[mx.array]]:
    """Return the losses (n,) of a chunk and the gradients of their weighted sum.

    d loss / d logits = weight * (softmax - one hot).

    The exponentials are the cost of it: they are taken once and serve both.
    """

    def logits_of(h: mx.array, *arrays: mx.array) -> list[mx.array]:
        return [head(rebuilt(list(arrays)), h)]

    stored = logits_of(h, *arrays)[0]
    logits = stored.astype(mx.float32)
    largest = logits.max(axis=-1, keepdims=True)
    exponentials = exp(logits - largest)
    sums = exponentials.sum(axis=-1, keepdims=True)
    at = targets[:, None]
    losses = mx.log(sums) + largest - mx.take_along_axis(logits, at, axis=-1)
    one_hot_share = mx.take_along_axis(exponentials, at, axis=-1) - sums
    gradient = mx.put_along_axis(exponentials, at, one_hot_share, axis=-1) * (weights[:, None] / sums)
    # The head's own output isn't needed for its gradient, so it isn't computed a second time.
    _, grads = mx.vjp(logits_of, [h, *arrays], [gradient.astype(stored.dtype)])
    return losses[:, 0], grads[0], list(grads[1:])
