"""A source that reads another one differently: everything that a wrapper doesn't change is the wrapped source's."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...model.channel_scales import ChannelScales
from ...model.config import ModelConfig
from .source import Fingerprint, Source, TensorRef


class WrappedSource:
    """Delegates to `source`; subclasses override what they change."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.config: ModelConfig = source.config
        self.location: Path = source.location
        self.description: str = source.description
        self.base_model: str | None = source.base_model
        self.dtype: str | None = source.dtype
        self.is_mlx_quantized: bool = source.is_mlx_quantized
        self.lost_scales: str | None = source.lost_scales

    @property
    def notes(self) -> Sequence[str]:
        """The wrapped source's notes."""
        return self.source.notes

    def tensors(self) -> Iterator[TensorRef]:
        """Yield the wrapped source's tensors."""
        yield from self.source.tensors()

    def channel_scales(self) -> ChannelScales | None:
        """Return the wrapped source's channel scales."""
        return self.source.channel_scales()

    def fingerprint(self) -> Fingerprint:
        """Return the wrapped source's fingerprint."""
        return self.source.fingerprint()

    def save_side_files(self, folder: Path) -> None:
        """Have the wrapped source write its files."""
        self.source.save_side_files(folder)

    def close(self) -> None:
        """Close the wrapped source."""
        self.source.close()
