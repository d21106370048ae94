"""The loss of a step and its gradient: traced, compiled where that pays, with no traced array left in the model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from ...device import back_end
from ...json_types import JsonObject
from ...model.transformer import LlamaForCausalLM
from ...trees import Tree, scalar
from .. import distributed
from ..layers.dropout import Noise
from ..objectives.objective import Loss, Objective, TrainBatch


@dataclass(frozen=True)
class StepSums:
    """The results of a step's batches: means and numbers over all processes; `batches` are this one's."""

    batches: Sequence[TrainBatch]
    loss: float
    more: Mapping[str, float]
    n_tokens: int
    n_targets: int


class LossFunctions:
    """An objective's loss over a model, as functions of the parameters."""

    def __init__(self, model: LlamaForCausalLM, objective: Objective, noise: Noise) -> None:
        self.model, self.objective = model, objective

        def loss(params: Tree, constants: Tree, arrays: Mapping[str, mx.array]) -> Loss:
            model.update(params)
            return objective.loss(model, arrays, constants)

        graded = mx.value_and_grad(loss)

        def traced(params: Tree, key: mx.array, constants: Tree, arrays: Mapping[str, mx.array]) -> Any:
            # Checkpointed blocks run again in the backward pass and have to drop the same values.
            with noise.using(key):
                return graded(params, constants, arrays)

        self._loss: Callable[..., Any] = loss
        self._graded: Callable[..., Any] = mx.compile(traced) if back_end().compiles_steps else traced

    def accumulated(self, params: Tree, key: mx.array, batches: Sequence[TrainBatch]) -> tuple[StepSums, Any]:
        """Return what the batches of a step come to, over all processes, and the mean gradient."""
        total, grads = mx.array(0.0), None
        sums: JsonObject = {}
        for number, batch in enumerate(batches):
            own = key + mx.array([number << 16, 0], mx.uint32)
            (loss, more), new = _counted(batch, self._gradients(params, own, as_arrays(batch.arrays)))
            grads = new if grads is None else tree_map(mx.add, grads, new)
            total = total + loss
            sums = {name: sums.get(name, 0.0) + value for name, value in more.items()}
            mx.eval(total, sums, grads)
        count = mx.array(sum(batch.count for batch in batches), mx.float32)
        tokens = [
            mx.array(float(sum(numbers))) for numbers in ([b.n_tokens for b in batches], [b.n_targets for b in batches])
        ]
        total, count, tokens, sums, grads = distributed.all_sum((total, count, tokens, sums, grads))
        divisor = mx.maximum(count, 1.0)
        grads = tree_map(lambda grad: grad / divisor, grads)
        means = {name: scalar(value / divisor) for name, value in sums.items()}
        n_tokens, n_targets = (round(scalar(number)) for number in tokens)
        reported = self.objective.reported(means) if means else means
        return StepSums(batches, scalar(total / divisor), reported, n_tokens, n_targets), grads

    def evaluate(self, params: Tree, batches: Sequence[TrainBatch]) -> tuple[float, Mapping[str, float]]:
        """Return the mean loss and further means over batches, without dropout."""
        self.model.eval()
        total, count = mx.array(0.0), mx.array(0.0)
        sums: JsonObject = {}
        for batch in batches:
            results = self._loss(params, self.objective.constants, as_arrays(batch.arrays))
            loss, more = _counted(batch, results)
            total, count = total + loss, count + batch.count
            sums = {name: sums.get(name, 0.0) + value for name, value in more.items()}
            mx.eval(total, sums)
        self.model.train()
        total, count, sums = distributed.all_sum((total, count, sums))
        means = {name: scalar(value / count) for name, value in sums.items()}
        return scalar(total / count), self.objective.reported(means) if means else means

    def _gradients(self, params: Tree, key: mx.array, arrays: Mapping[str, mx.array]) -> Any:
        try:
            return self._graded(params, key, self.objective.constants, arrays)
        finally:
            # Tracing has put its own arrays in the place of the parameters.
            self.model.update(params)


def as_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, mx.array]:
    """Return a batch's arrays as MLX's."""
    return {name: mx.array(array) for name, array in arrays.items()}


def _counted(batch: TrainBatch, results: Any) -> Any:
    """Return the results of a batch; zeros for a stand-in, where a process has no share of the batch."""
    return results if batch.count else tree_map(mx.zeros_like, results)
