"""The part of a forward pass that several processes share: what each computes, and what they send one another."""

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx

from ..kv_cache.step import Mask, Step
from ..model.transformer import Attends, Rope, TransformerBlock
from .shares import Share


class Exchange(Protocol):
    """A way of splitting. `messages` and `sent_bytes` count what this process sends: hidden states."""

    messages: int
    sent_bytes: int

    def run(
        self,
        layers: Sequence[TransformerBlock],
        h: mx.array,
        rope: Rope,
        step: Step | Mask,
        caches: Sequence[Attends | None],
    ) -> mx.array:
        """Run this process's share of all layers on hidden states (B, L, D).

        Rank 0 gives the embedded tokens and gets what comes of the last layer. For the others `h` says shape and dtype
        alone, and what they get is to be evaluated, no more.
        """


class TensorExchange:
    """Every process has its heads and columns of each layer; what they add to the hidden states is summed."""

    def __init__(self, group: mx.distributed.Group) -> None:
        self._group = group
        self.messages = self.sent_bytes = 0

    def run(
        self,
        layers: Sequence[TransformerBlock],
        h: mx.array,
        rope: Rope,
        step: Step | Mask,
        caches: Sequence[Attends | None],
    ) -> mx.array:
        """Run all layers: one sum brings rank 0's hidden states to all, two more follow a layer."""
        h = self._sum(h if self._group.rank() == 0 else mx.zeros_like(h))
        for layer, cache in zip(layers, caches, strict=True):
            h = h + self._sum(layer["self_attn"](layer["input_layernorm"](h), rope, step, cache))
            h = h + self._sum(layer["mlp"](layer["post_attention_layernorm"](h)))
        return h

    def _sum(self, x: mx.array) -> mx.array:
        self.messages += 1
        self.sent_bytes += x.nbytes
        return mx.distributed.all_sum(x, group=self._group)


class PipelineExchange:
    """Every process has whole layers, and sends hidden states on to the next; the last sends them back to rank 0."""

    def __init__(self, group: mx.distributed.Group) -> None:
        self._group = group
        self.messages = self.sent_bytes = 0

    def run(
        self,
        layers: Sequence[TransformerBlock],
        h: mx.array,
        rope: Rope,
        step: Step | Mask,
        caches: Sequence[Attends | None],
    ) -> mx.array:
        """Run this process's layers between receiving and sending."""
        rank, size = self._group.rank(), self._group.size()
        if rank:
            h = mx.distributed.recv(h.shape, h.dtype, rank - 1, group=self._group)
        for layer, cache in zip(layers, caches, strict=True):
            h = layer(h, rope, step, cache)
        self.messages += 1
        self.sent_bytes += h.nbytes
        sent = mx.distributed.send(h, (rank + 1) % size, group=self._group)
        if rank:
            return sent
        # Messages go in the order in which they are evaluated: what comes back waits for what was sent.
        mx.async_eval(sent)
        return mx.distributed.recv(h.shape, h.dtype, size - 1, group=self._group)


def make_exchange(share: Share, group: mx.distributed.Group) -> Exchange:
    """Return the exchange of a share's way of splitting."""
    return TensorExchange(group) if share.split == "tensor" else PipelineExchange(group)
