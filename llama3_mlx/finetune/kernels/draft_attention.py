"""Attention of a draft head over the drafted tokens of every position of packed rows at once.

In use, the head's cache holds an entry for each known position, made from the target's hidden states, and one for each
token drafted since, made from the head's own output. So the k-th drafted token of position t sees the first kind up to
t, and of the second kind those of its own position alone: scores beside the triangle, k - 1 of them.
Source: https://arxiv.org/abs/2503.01840, section 3.2 and figure 6; SafeAILab/EAGLE `eagle/traineagle3/cnets.py`.
"""

from collections.abc import Sequence

import mlx.core as mx

from ...kv_cache.step import Step
from .packed_attention import PackedAttention

KeysAndValues = tuple[mx.array, mx.array]


class DraftAttention:
    """Stands where a head's cache does, for one drafted token of every position."""

    def __init__(self, packed: PackedAttention, earlier: Sequence[KeysAndValues]) -> None:
        """`earlier` are the keys and values (B, K, L, head_dim) of the drafted tokens before, the first one's first."""
        self.packed, self.earlier = packed, earlier
        self.layers = [self]
        self.added: KeysAndValues | None = None
        """Keys and values of this drafted token, once the layer has run."""

    def step(self, n_sequences: int, n_new: int) -> Step:
        """Return the positions: each drafted token stands one further than the one before."""
        offset = len(self.earlier)
        return Step((offset,) * n_sequences, n_new, offset, None, "causal")

    def advance(self, n_new: int) -> None:
        """Nothing: the next drafted token has an object of its own."""

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, step: Step) -> mx.array:
        """Return attention (B, H, L, head_dim)."""
        self.added = (keys, values)
        first, *own = [*self.earlier, self.added]
        output, normalizers = self.packed.with_normalizers(queries, *first, scale)
        if not own:
            return output
        B, H, L, _ = queries.shape
        grouped = (queries * scale).reshape(B, keys.shape[1], -1, L, queries.shape[-1])
        scores = [(grouped * each[:, :, None]).sum(axis=-1, keepdims=True).reshape(B, H, L, 1) for each, _ in own]
        every = mx.concatenate([normalizers, *(each.astype(mx.float32) for each in scores)], axis=-1)
        shares = mx.softmax(every, axis=-1).astype(values.dtype)
        groups = H // values.shape[1]
        output = output * shares[..., :1]
        for number, (_, each) in enumerate(own, start=1):
            output = output + shares[..., number : number + 1] * mx.repeat(each, groups, axis=1)
        return output
