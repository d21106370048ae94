"""Several adapters of one base as one: the weighted sum of their low-rank terms, exactly, by ranks side by side."""

from collections.abc import Sequence

import mlx.core as mx

from ..errors import AdapterError
from .adapter import Adapter, LowRank


def merged(adapters: Sequence[tuple[Adapter, float]]) -> Adapter:
    """Return the adapter whose effect on every matrix is the weighted sum; raises AdapterError for what has none.

    Its ranks are the sums of theirs. All adapters must be for the same channels.
    """
    for adapter, _ in adapters:
        if adapter.is_dora or adapter.full_tensors:
            raise AdapterError("a DoRA adapter or one with fully trained modules can't be merged with others")
    paths = sorted({path for adapter, _ in adapters for path in adapter.parts})
    parts = {path: _summed([(a.parts[path], weight) for a, weight in adapters if path in a.parts]) for path in paths}
    first = adapters[0][0]
    return Adapter(parts, {}, max(adapter.dropout for adapter, _ in adapters), first.base, first.scales)


def _summed(terms: Sequence[tuple[LowRank, float]]) -> LowRank:
    scale = max(part.scale for part, _ in terms)
    a = mx.concatenate([part.a.astype(mx.float32) for part, _ in terms], axis=1)
    b = mx.concatenate([part.b.astype(mx.float32) * (weight * part.scale / scale) for part, weight in terms], axis=0)
    return LowRank(a, b, scale)
