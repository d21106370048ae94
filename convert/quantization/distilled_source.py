"""A source whose norms were trained by distillation."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from ..sources.source import Source, TensorRef
from ..sources.wrapped import WrappedSource


class DistilledSource(WrappedSource):
    """Wraps a source; `norm` gives a norm's weight by its name. Training changes norms, not channel scales."""

    def __init__(self, source: Source, norm: Callable[[str], np.ndarray]) -> None:
        super().__init__(source)
        self._norm = norm

    def tensors(self) -> Iterator[TensorRef]:
        """Yield the wrapped source's tensors, norms as they were trained, in float32."""
        for ref in self.source.tensors():
            trained = ref.name.endswith("norm.weight")
            yield replace(ref, dtype="F32", read=partial(self._read, ref.name)) if trained else ref

    def _read(self, name: str, start: int, stop: int) -> np.ndarray:
        return self._norm(name)[start:stop]
