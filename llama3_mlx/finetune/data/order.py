"""Which batch comes at which step: a function of the seed alone, so that a resumed run finds its position."""

from collections.abc import Callable
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")


class BatchOrder(Generic[T]):
    """The batches of endless epochs; epoch e is drawn by a generator seeded with (seed, e)."""

    def __init__(self, make_epoch: Callable[[np.random.Generator], list[T]], seed: int) -> None:
        self._make_epoch = lru_cache(maxsize=2)(lambda epoch: make_epoch(np.random.default_rng([seed, epoch])))
        self.per_epoch = len(self._make_epoch(0))

    def __getitem__(self, index: int) -> T:
        """Return the batch at a position counted through all epochs."""
        epoch, at = divmod(index, self.per_epoch)
        made = self._make_epoch(epoch)
        assert len(made) == self.per_epoch, "every epoch has the same number of batches"
        return made[at]
