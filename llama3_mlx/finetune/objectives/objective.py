"""What is being optimized, as the trainer sees it: batches by number, a loss with its gradient, a validation."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ...model.transformer import LlamaForCausalLM
from ...trees import Tree

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


class Objective(ABC):
    """Supervised learning, a preference loss, a policy gradient.

    `constants` is a tree of arrays that the loss needs and that no step changes. They are inputs of the traced step, as
    the parameters are: a compiled function must not find arrays captured.
    """

    per_epoch: int
    constants: Tree = None

    def bind(self, model: LlamaForCausalLM) -> None:  # noqa: B027
        """Take the model in before training."""

    @abstractmethod
    def batch(self, index: int) -> TrainBatch:
        """Return the batch at a position counted through all epochs; always the same."""

    @abstractmethod
    def loss(self, model: LlamaForCausalLM, arrays: Mapping[str, mx.array], constants: Tree) -> Loss:
        """Return the sum of the loss, and further sums to report by name, each over the batch's `count`."""

    def reported(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """Return what is told of the further sums' means: these themselves, or what follows from them."""
        return means

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a digest of the data, so that a run is resumed with the same."""

    @property
    def validates(self) -> bool:
        """Whether there is something to validate on."""
        return bool(self.validation())

    def validation(self) -> Sequence[TrainBatch]:
        """Return the batches to validate on; none without validation data."""
        return ()

    def validation_reward(self) -> float | None:
        """Return the mean reward of answers drawn now, for an objective that validates by them; None for others."""
        return None

    def test(self) -> Sequence[TrainBatch]:
        """Return the batches that are looked at once, when training is over."""
        return ()
