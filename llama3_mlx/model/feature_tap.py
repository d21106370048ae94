"""Hidden states from between the layers, for what is computed from them beside the model: a draft head."""

from collections.abc import Sequence

import mlx.core as mx


class FeatureTap:
    """Gathers the residual stream at chosen depths while a model runs; the pass itself stays the same.

    Depth i is what enters layer i, the embedding for 0, and the output of the last layer, before the final norm, for
    the number of layers: `hidden_states[i]` of transformers but for the last.
    """

    def __init__(self, depths: Sequence[int]) -> None:
        self.depths = tuple(depths)
        self._found: dict[int, list[mx.array]] = {depth: [] for depth in self.depths}

    def gather(self, depth: int, h: mx.array) -> None:
        """Keep the hidden states (B, L, D) at a depth if it is one of the chosen."""
        if depth in self._found:
            self._found[depth].append(h)

    def take(self) -> mx.array:
        """Return what was gathered since the last call, (B, L, n D) with the depths side by side, and forget it."""
        found, self._found = self._found, {depth: [] for depth in self.depths}
        parts = [h[0] if len(h) == 1 else mx.concatenate(h, axis=1) for h in (found[depth] for depth in self.depths)]
        return mx.concatenate(parts, axis=-1)
