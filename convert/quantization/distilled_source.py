"""A source with norms that were trained."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...model.channel_scales import ChannelScales
from ..sources.source import Source, TensorRef


class DistilledSource:
    """Wraps a source; `norm` gives a norm's weight by its name. `exact` is the wrapped source."""

    def __init__(self, exact: Source, norm: Callable[[str], np.ndarray]) -> None:
        self.exact, self._norm = exact, norm
        self.config = exact.config
        self.location: Path = exact.location
        self.description: str = exact.description
        self.base_model: str | None = exact.base_model
        self.extra_config: dict[str, Any] = exact.extra_config

    @property
    def notes(self) -> Sequence[str]:
        """What the wrapped source notes."""
        return self.exact.notes

    def tensors(self) -> Iterator[TensorRef]:
        """Yield the wrapped source's tensors, norms as they were trained, in float32."""
        for ref in self.exact.tensors():
            trained = ref.name.endswith("norm.weight")
            yield replace(ref, dtype="F32", read=partial(self._read, ref.name)) if trained else ref

    def channel_scales(self) -> ChannelScales | None:
        """Return the wrapped source's; what training changed of a norm is no change of scale."""
        return self.exact.channel_scales()

    def fingerprint(self) -> dict[str, Any]:
        """Return the wrapped source's."""
        return self.exact.fingerprint()

    def save_side_files(self, folder: Path) -> None:
        """Have the wrapped source write its files."""
        self.exact.save_side_files(folder)

    def close(self) -> None:
        """Close the wrapped source."""
        self.exact.close()

    def _read(self, name: str, start: int, stop: int) -> np.ndarray:
        return self._norm(name)[start:stop]
