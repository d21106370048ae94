"""Attention of many rows over a stem that they share, and of leaves over the row that each continues.

The stem's keys and values are those of one sequence. They are set beside each row's own for one layer at a time, so
that the memory is that of the stem and of the new tokens, not that of a cache for every row.
"""

from collections.abc import Sequence

import mlx.core as mx

from ..kv_cache import ModelCache
from ..kv_cache.plain import PlainLayer
from ..kv_cache.step import Step
from ..model.transformer import LlamaForCausalLM

_Pair = list[mx.array]


class RowLayer:
    """Rows of new tokens after the same stem; padding stands behind a row's tokens, where none of them sees it."""

    def __init__(self, stem: _Pair, keeps: bool) -> None:
        """`keeps` says whether leaves will need the rows' keys and values, `own`."""
        self._stem, self._keeps = stem, keeps
        self.own: _Pair = []

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, step: Step) -> mx.array:
        """Return attention (B, H, L, head_dim) over the stem and the row's own earlier tokens."""
        if self._keeps:
            # Keys and values may be views of an array that has the queries, too, and would keep all of it.
            self.own = [mx.contiguous(keys), mx.contiguous(values)]
        keys, values = (beside(stem, own) for stem, own in zip(self._stem, (keys, values), strict=True))
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=step.mask)


class LeafLayer:
    """Leaves: each continues one of the rows; the mask hides the padding of rows."""

    def __init__(self, stem: _Pair, rows: _Pair, parents: mx.array) -> None:
        self._stem, self._rows, self._parents = stem, rows, parents

    def attend(self, queries: mx.array, keys: mx.array, values: mx.array, *, scale: float, step: Step) -> mx.array:
        """Return attention (B, H, L, head_dim) over the stem, the leaf's row and its own earlier tokens."""
        parts = zip(self._stem, self._rows, (keys, values), strict=True)
        keys, values = (beside(stem, mx.concatenate([row[self._parents], own], axis=2)) for stem, row, own in parts)
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=step.mask)


def beside(stem: mx.array, own: mx.array) -> mx.array:
    """Return what one sequence has, (1, K, S, head_dim), before what each row has, (B, K, L, head_dim)."""
    if not stem.shape[2]:
        return own
    return mx.concatenate([mx.broadcast_to(stem, (own.shape[0], *stem.shape[1:])), own], axis=2)


class Stem:
    """The tokens that rows share, and their KV cache; what two stems have in common is computed once."""

    def __init__(self, model: LlamaForCausalLM, chunk: int) -> None:
        """A forward pass has at most `chunk` tokens."""
        self._model, self._chunk = model, chunk
        self.ids: tuple[int, ...] = ()
        self.cache: ModelCache = model.make_cache()

    def set(self, ids: Sequence[int]) -> None:
        """Make these the stem's tokens."""
        self.trim(self.shared(ids))
        self.run(ids[len(self.ids) :], len(ids))

    def shared(self, ids: Sequence[int]) -> int:
        """Return with how many of its tokens `ids` begin."""
        pairs = enumerate(zip(self.ids, ids, strict=False))
        return next((at for at, (a, b) in pairs if a != b), min(len(self.ids), len(ids)))

    def trim(self, length: int) -> None:
        """Forget the tokens from `length` on."""
        self.ids = self.ids[:length]
        if self.cache.lengths:
            self.cache.trim(len(self.ids))

    def run(self, ids: Sequence[int], first: int) -> mx.array:
        """Append tokens; return the hidden states (n, D) from index `first` of them on."""
        found = [mx.zeros((0, self._model.config.hidden_size))]
        for start in range(0, len(ids), self._chunk):
            part = list(ids[start : start + self._chunk])
            h = self._model.hidden(mx.array([part], mx.int32), self.cache)[0]
            if start + len(part) > first:
                found.append(h[max(0, first - start) :])
            mx.eval(self.cache.arrays, found)
        self.ids = (*self.ids, *ids)
        return mx.concatenate(found[1:] or found)

    def layers(self) -> list[_Pair]:
        """Return keys and values of each layer, (1, K, S, head_dim); S may be 0."""
        if not self.ids:
            config = self._model.config
            shape = (1, config.num_key_value_heads, 0, config.head_dim)
            return [[mx.zeros(shape), mx.zeros(shape)] for _ in self.cache.layers]
        found = []
        for layer in self.cache.layers:
            assert isinstance(layer, PlainLayer), "the stem's cache is a plain one"
            found.append(layer.row(0, 0, len(self.ids)))
        return found


def padded(rows: Sequence[Sequence[int]]) -> mx.array:
    """Return ids (B, L) of rows of different lengths, filled up behind."""
    longest = max(map(len, rows))
    return mx.array([[*row, *[0] * (longest - len(row))] for row in rows], mx.int32)


def run_rows(
    model: LlamaForCausalLM, stem: Stem, rows: Sequence[Sequence[int]], *, keeps: bool
) -> tuple[mx.array, list[RowLayer]]:
    """Return hidden states (B, L, D) of rows that continue the stem, and their layers, which leaves may continue."""
    tokens, start = padded(rows), len(stem.ids)
    layers = [RowLayer(pair, keeps) for pair in stem.layers()]
    step = Step((start,) * len(rows), tokens.shape[1], start, None, "causal")
    h = model.run(tokens, model.rope.for_length(start + tokens.shape[1]), step, layers)
    return h, layers


def run_leaves(
    model: LlamaForCausalLM,
    stem: Stem,
    leaves: Sequence[Sequence[int]],
    layers: Sequence[RowLayer],
    parents: Sequence[int],
    lengths: Sequence[int],
) -> mx.array:
    """Return hidden states (B, L, D) of leaves.

    Leaf i continues row `parents[i]`, which has `lengths[i]` tokens after the stem.
    """
    tokens, start = padded(leaves), len(stem.ids)
    L, width = tokens.shape[1], layers[0].own[0].shape[2]
    own = mx.array(list(lengths), mx.int32)
    # Columns: the stem, the row's tokens and its padding, the leaf's tokens.
    columns = mx.arange(start + width + L, dtype=mx.int32)[None, None]
    lines = mx.arange(L, dtype=mx.int32)[None, :, None]
    in_row = columns < start + own[:, None, None]
    in_leaf = (columns >= start + width) & (columns - start - width <= lines)
    step = Step(tuple(start + n for n in lengths), L, start + own, None, (in_row | in_leaf)[:, None])
    chosen = mx.array(list(parents), mx.int32)
    pairs = zip(stem.layers(), layers, strict=True)
    leaf_layers = [LeafLayer(pair, layer.own, chosen) for pair, layer in pairs]
    return model.run(tokens, model.rope.for_length(start + width + L), step, leaf_layers)
