"""The positions of the new tokens of one forward pass; made once a pass, shared by all layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import mlx.core as mx

Mask = mx.array | str | None


@dataclass(frozen=True)
class Step:
    """Positions of L new tokens of each sequence.

    Sequences of equal length need no index arrays: `slots` is None, `offset` a number, and the mask None or "causal".
    """

    lengths: tuple[int, ...]
    n_new: int
    offset: int | mx.array
    """Position of the first new token: one for all sequences, or (rows,)."""
    slots: mx.array | None
    """Positions (rows, L) of the new tokens, where lengths differ."""
    mask: Mask
    """As `mx.fast.scaled_dot_product_attention` takes it: boolean (rows, 1, L, S), true to attend."""

    @cached_property
    def rows(self) -> int:
        """Number of sequences, one row of the buffers each."""
        return len(self.lengths)

    @cached_property
    def first(self) -> int:
        """Position of the first new token of the shortest sequence."""
        return min(self.lengths)

    @cached_property
    def last(self) -> int:
        """Position of the last new token of the longest sequence."""
        return max(self.lengths) + self.n_new - 1


def make_step(lengths: Sequence[int], n_new: int) -> Step:
    """Return the step of `n_new` tokens after sequences of `lengths`."""
    if len(set(lengths)) == 1:
        return Step(tuple(lengths), n_new, lengths[0], None, None if n_new == 1 else "causal")
    offset = mx.array(list(lengths), mx.int32)
    slots = offset[:, None] + mx.arange(n_new, dtype=mx.int32)
    positions = mx.arange(max(lengths) + n_new, dtype=mx.int32)
    return Step(tuple(lengths), n_new, offset, slots, (positions <= slots[..., None])[:, None])
