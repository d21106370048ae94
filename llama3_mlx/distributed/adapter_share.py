"""The part of an adapter that goes with a share of a model: its terms are cut as the matrices beside them are.

y = W x + scale * b^T a^T x: where a process has some outputs of W it has those of `b` and all of `a`; where it has some
inputs, those of `a` and all of `b`, and the processes' products are summed with the layer's.
"""

from dataclasses import dataclass

import mlx.core as mx

from ..adapters.adapter import EMBEDDING, Adapter, LowRank
from ..adapters.rescaling import AdapterBase
from .shares import Cut, Share


@dataclass(frozen=True)
class AdapterShare(Adapter):
    """What one process holds of an adapter."""

    whole_is_mixable: bool = True

    @property
    def is_mixable(self) -> bool:
        """Whether the whole adapter is: all processes decide alike, whatever they hold of it."""
        return self.whole_is_mixable


def adapter_share(adapter: Adapter, share: Share, base: AdapterBase) -> AdapterShare:
    """Return a share's part of an adapter that fits `base`, under the share's own names, for its channels."""
    parts, full = {}, {}
    for path, part in adapter.parts.items():
        local = share.local_name(path)
        if local is not None and (local != "lm_head" or path == "lm_head"):
            parts[local] = _part(path, part, share, adapter, base)
    for name, array in adapter.full_tensors.items():
        local = share.local_name(name)
        if local is not None:
            full[local] = _tensor(name, array, share, base)
    if share.vocabulary is not None and share.head_path == EMBEDDING:
        rows = _slice(share.vocabulary)
        if EMBEDDING in adapter.parts:
            # The embedding's term, E + scale * A B, as that of a head: its outputs are the rows of A.
            part = adapter.parts[EMBEDDING]
            parts["lm_head"] = LowRank(mx.contiguous(part.b.T), mx.contiguous(part.a[rows].T), part.scale)
        if f"{EMBEDDING}.weight" in adapter.full_tensors:
            full["lm_head.weight"] = mx.contiguous(adapter.full_tensors[f"{EMBEDDING}.weight"][rows])
    made = AdapterShare(parts, full, adapter.dropout, adapter.base, whole_is_mixable=adapter.is_mixable)
    mx.eval(list(made.arrays()))
    return made


def _part(path: str, part: LowRank, share: Share, adapter: Adapter, base: AdapterBase) -> LowRank:
    outputs, inputs = share.cut(f"{path}.weight", base.config)
    magnitude = part.magnitude
    if magnitude is not None and inputs is not None:
        magnitude = _magnitude_of_inputs(path, part, inputs, adapter, base)
    elif magnitude is not None:
        magnitude = magnitude[_slice(outputs)]
    # Copies: a view would keep the whole term in memory.
    a, b = mx.contiguous(part.a[_slice(inputs)]), mx.contiguous(part.b[:, _slice(outputs)])
    return LowRank(a, b, part.scale, magnitude)


def _magnitude_of_inputs(path: str, part: LowRank, inputs: Cut, adapter: Adapter, base: AdapterBase) -> mx.array:
    """Return DoRA's magnitude for some inputs of a matrix.

    Its gain m / ||W + scale B A|| has the norm over all inputs; here it is divided by that over the held ones.
    """
    assert part.magnitude is not None, "of a DoRA adapter"
    name = f"{path}.weight"
    weight = adapter.full_tensors[name] if name in adapter.full_tensors else base.matrix(path)
    summed = weight.astype(mx.float32) + part.scale * (part.a @ part.b).T
    held, whole = mx.linalg.norm(summed[:, _slice(inputs)], axis=1), mx.linalg.norm(summed, axis=1)
    magnitude = part.magnitude.astype(mx.float32) * held / whole
    # One layer's matrix in memory at a time.
    mx.eval(magnitude)
    return magnitude


def _tensor(name: str, array: mx.array, share: Share, base: AdapterBase) -> mx.array:
    outputs, inputs = share.cut(name, base.config)
    if array.ndim > 1:
        return mx.contiguous(array[_slice(outputs), _slice(inputs)])
    # The bias of a sum over all processes is added once.
    return mx.zeros_like(array) if inputs is not None and share.rank else array[_slice(outputs)]


def _slice(cut: Cut | None) -> slice:
    return slice(None) if cut is None else slice(*cut)
