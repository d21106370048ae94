"""Dropout whose masks follow from a key, so that a checkpointed block that runs again drops the same values."""

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx


class Noise:
    """The source of randomness that all layers of a model share; the trainer gives it a key for each batch."""

    def __init__(self) -> None:
        self.key = mx.random.key(0)
        self._sources = 0

    @contextmanager
    def using(self, key: mx.array) -> Iterator[None]:
        """Draw from `key` while the block runs: a traced function must leave none of its own arrays behind."""
        before, self.key = self.key, key
        try:
            yield
        finally:
            self.key = before

    def make_dropout(self, rate: float) -> "Dropout":
        """Return the dropout of one layer, with masks of its own."""
        self._sources += 1
        return Dropout(self, rate, self._sources)


class Dropout:
    """Sets a share `rate` of values to zero and scales the others up; does nothing outside training."""

    def __init__(self, noise: Noise, rate: float, number: int) -> None:
        self.noise, self.rate, self.number = noise, rate, number

    def __call__(self, x: mx.array, training: bool) -> mx.array:
        if not training or self.rate == 0:
            return x
        key = self.noise.key + mx.array([0, self.number], mx.uint32)
        kept = mx.random.bernoulli(1 - self.rate, x.shape, key=key)
        return mx.where(kept, x * (1 / (1 - self.rate)), 0)
