"""What is being optimized, as the trainer sees it: batches by number, a loss with its gradient, a validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import numpy as np

from ...model.transformer import LlamaForCausalLM

Loss = tuple[mx.array, dict[str, mx.array]]


@dataclass(frozen=True)
class TrainBatch:
    """The arrays of one batch, and what they count for.

    The loss of a step is the sum over its batches divided by the sum of their `count`s. A process without a share of a
    batch has a stand-in for it whose `count` is 0.
    """

    arrays: Mapping[str, np.ndarray]
    count: float
    n_tokens: int
    n_targets: int
    where: tuple[str, ...]


class Objective(Protocol):
    """Supervised learning, a preference loss, a policy gradient."""

    per_epoch: int

    def batch(self, index: int) -> TrainBatch:
        """Return the batch at a position counted through all epochs; always the same."""

    def loss(self, model: LlamaForCausalLM, arrays: Mapping[str, mx.array]) -> Loss:
        """Return the sum of the loss, and further sums to report by name, each over the batch's `count`."""

    def validation(self) -> Sequence[TrainBatch]:
        """Return the batches to validate on; none without validation data."""

    def fingerprint(self) -> str:
        """Return a digest of the data, so that a run is resumed with the same."""
