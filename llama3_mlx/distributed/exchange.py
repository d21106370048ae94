"""The part of a forward pass that several processes share: what each computes, and what they send one another."""

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn

from ..kv_cache.step import Mask, Step
from ..model.feature_tap import FeatureTap
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
        *,
        tap: FeatureTap | None = None,
        wanted: bool = True,
    ) -> mx.array:
        """Run this process's share of all layers on hidden states (B, L, D).

        Rank 0 gives the embedded tokens and gets what comes of the last layer, if that is `wanted`, and its `tap` what
        it is to gather. For the others `h` says shape and dtype alone, and what they get is to be evaluated, no more.
        """

    def logits(self, head: nn.Module, h: mx.array) -> mx.array:
        """Run this process's rows of a split head on hidden states (n, D); on rank 0, return logits (n, V)."""

    def travelling(self, depths: Sequence[int]) -> list[int]:
        """Return at which of these depths other processes than rank 0 have the hidden states."""


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
        *,
        tap: FeatureTap | None = None,
        wanted: bool = True,
    ) -> mx.array:
        """Run all layers: one sum brings rank 0's hidden states to all, two more follow a layer."""
        h = self._sum(h if self._group.rank() == 0 else mx.zeros_like(h))
        for index, (layer, cache) in enumerate(zip(layers, caches, strict=True)):
            if tap is not None:
                tap.gather(index, h)
            h = h + self._sum(layer["self_attn"](layer["input_layernorm"](h), rope, step, cache))
            h = h + self._sum(layer["mlp"](layer["post_attention_layernorm"](h)))
        if tap is not None:
            tap.gather(len(layers), h)
        return h

    def logits(self, head: nn.Module, h: mx.array) -> mx.array:
        """Return the logits (n, V): a sum brings rank 0's hidden states to all, then all gather the logits."""
        part = head(self._sum(h if self._group.rank() == 0 else mx.zeros_like(h)))
        self.messages += 1
        self.sent_bytes += part.nbytes
        parts = mx.distributed.all_gather(part, group=self._group).reshape(self._group.size(), *part.shape)
        return parts.swapaxes(0, 1).reshape(part.shape[0], -1)

    def travelling(self, depths: Sequence[int]) -> list[int]:
        """Return none: rank 0 has all hidden states."""
        return []

    def _sum(self, x: mx.array) -> mx.array:
        self.messages += 1
        self.sent_bytes += x.nbytes
        return mx.distributed.all_sum(x, group=self._group)


class PipelineExchange:
    """Every process has whole layers, and sends hidden states on to the next; the last sends them back to rank 0.

    What rank 0 doesn't want stays with the last one. So it runs the next chunk of a prompt while others are still at
    this one. What it wants it receives when that is evaluated, which must be in the order of the passes: before, it
    may run its layers for another batch.
    """

    def __init__(self, group: mx.distributed.Group, layers: tuple[int, int]) -> None:
        """`layers` are those of this process, (start, stop)."""
        self._group, self._layers = group, layers
        self.messages = self.sent_bytes = 0

    def run(
        self,
        layers: Sequence[TransformerBlock],
        h: mx.array,
        rope: Rope,
        step: Step | Mask,
        caches: Sequence[Attends | None],
        *,
        tap: FeatureTap | None = None,
        wanted: bool = True,
    ) -> mx.array:
        """Run this process's layers between receiving and sending."""
        rank, size = self._group.rank(), self._group.size()
        depths = [] if tap is None else self.travelling(tap.depths) if rank == 0 else list(tap.depths)
        tapped: list[mx.array] = []
        if rank:
            h, *tapped = self._received(h, sum(depth < self._layers[0] for depth in depths))
        for index, (layer, cache) in enumerate(zip(layers, caches, strict=True), self._layers[0]):
            if index in depths:
                tapped.append(h)
            elif tap is not None:
                tap.gather(index, h)
            h = layer(h, rope, step, cache)
        if rank == size - 1 and self._layers[1] in depths:
            tapped.append(h)
        if rank == size - 1 and not (wanted or tapped):
            return mx.zeros(0)
        sent = self._sent(mx.concatenate([h, *tapped], axis=-1) if tapped else h)
        if rank or not (wanted or depths):
            return sent
        # Messages go in the order in which they are evaluated: what comes back waits for what was sent.
        mx.async_eval(sent)
        h, *tapped = self._received(h, len(depths))
        for depth, states in zip(depths, tapped, strict=True):
            assert tap is not None, "there are depths"
            tap.gather(depth, states)
        return h

    def logits(self, head: nn.Module, h: mx.array) -> mx.array:
        """Refuse: rank 0 has the whole head."""
        raise AssertionError("the head of a pipeline isn't split")

    def travelling(self, depths: Sequence[int]) -> list[int]:
        """Return the depths from the first layer on that rank 0 doesn't have, in their order."""
        return sorted({depth for depth in depths if depth >= self._layers[1]})

    def _received(self, like: mx.array, n_tapped: int) -> list[mx.array]:
        """Return hidden states of a shape, and those that were tapped on their way, from the process before."""
        rank, size = self._group.rank(), self._group.size()
        shape = (*like.shape[:-1], like.shape[-1] * (1 + n_tapped))
        joint = mx.distributed.recv(shape, like.dtype, (rank - 1) % size, group=self._group)
        return list(mx.split(joint, 1 + n_tapped, axis=-1)) if n_tapped else [joint]

    def _sent(self, x: mx.array) -> mx.array:
        """Return what is to be evaluated to send to the next process."""
        self.messages += 1
        self.sent_bytes += x.nbytes
        return mx.distributed.send(x, (self._group.rank() + 1) % self._group.size(), group=self._group)


def make_exchange(share: Share, group: mx.distributed.Group) -> Exchange:
    """Return the exchange of a share's way of splitting."""
    return TensorExchange(group) if share.split == "tensor" else PipelineExchange(group, share.layers)
