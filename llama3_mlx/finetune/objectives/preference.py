"""DPO, ORPO and KTO: losses over the log-probabilities of complete continuations.

The reference of DPO and KTO is the model as training found it: the same weights with the adapter's first values, which
change nothing in a new adapter. It takes a forward pass, no second copy of the model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ...model.transformer import LlamaForCausalLM
from ...trees import Tree
from .. import distributed
from ..data.encoding import Example
from ..data.order import BatchOrder
from ..data.packing import row_length
from ..kernels.chunked_loss import chunk_size
from .objective import Loss, Objective, TrainBatch
from .sequences import Arrays, sequence_arrays, sequences_fingerprint, summed_by_owner, target_logprobs
from .supervised import RowShape


@dataclass(frozen=True)
class Unit:
    """Sequences that a loss needs together, and a sign: +1 or -1 for desirable or not, where there is one answer."""

    sequences: tuple[Example, ...]
    sign: float = 1.0
    where: str = ""


@dataclass(frozen=True)
class Sums:
    """Log-probabilities of the sequences of a batch, (units, sequences of one), and their numbers of tokens."""

    policy: mx.array
    reference: mx.array | None
    tokens: mx.array
    signs: mx.array


UnitLoss = Callable[[Sums], tuple[mx.array, dict[str, mx.array]]]


class Preference(Objective):
    """An objective over units of sequences; `unit_loss` gives the loss of each, (units,), and what to report."""

    def __init__(
        self,
        units: Sequence[Unit],
        valid: Sequence[Unit],
        unit_loss: UnitLoss,
        *,
        shape: RowShape,
        vocab_size: int,
        keep: str,
        seed: int,
        referenced: bool,
    ) -> None:
        """`shape.batch_size` counts units, which are shared out over the processes."""
        self.units, self.valid_units, self.unit_loss, self.shape, self.keep = units, valid, unit_loss, shape, keep
        self.chunk = chunk_size(vocab_size, shape.length)
        self.referenced = referenced
        size = shape.batch_size
        self._order = BatchOrder(
            lambda rng: [o.tolist() for o in np.array_split(rng.permutation(len(units)), -(-len(units) // size))], seed
        )
        self.per_epoch = self._order.per_epoch

    def bind(self, model: LlamaForCausalLM) -> None:
        """Keep the first values of what is trained: they make the reference."""
        if self.referenced:
            self.constants = model.trainable_parameters()

    def batch(self, index: int) -> TrainBatch:
        return self._made([self.units[i] for i in self._order[index]])

    @property
    def validates(self) -> bool:
        return bool(self.valid_units)

    def validation(self) -> list[TrainBatch]:
        size = self.shape.batch_size
        return [self._made(self.valid_units[at : at + size]) for at in range(0, len(self.valid_units), size)]

    def _made(self, units: Sequence[Unit]) -> TrainBatch:
        share = units[distributed.rank() :: distributed.size()]
        mine = share or units[:1]
        sequences = [sequence for unit in mine for sequence in unit.sequences]
        arrays = sequence_arrays(sequences, self.shape.length, self.chunk)
        arrays["signs"] = np.array([unit.sign for unit in mine], np.float32)
        arrays["counts"] = np.array([sequence.n_targets for sequence in sequences], np.float32)
        n_tokens = sum(sequence.length for sequence in sequences) if share else 0
        n_targets = sum(sequence.n_targets for sequence in sequences) if share else 0
        return TrainBatch(arrays, len(share), n_tokens, n_targets, tuple(unit.where for unit in share))

    def loss(self, model: LlamaForCausalLM, arrays: Arrays, constants: Tree) -> Loss:
        n_units, n = arrays["signs"].shape[0], arrays["counts"].shape[0]
        each = n // max(1, n_units)
        policy = self._sums(model, arrays, n)
        reference = mx.stop_gradient(self._reference(model, arrays, n, constants)) if self.referenced else None
        sums = Sums(
            policy.reshape(n_units, each),
            None if reference is None else reference.reshape(n_units, each),
            arrays["counts"].reshape(n_units, each),
            arrays["signs"],
        )
        losses, more = self.unit_loss(sums)
        return losses.sum(), {name: values.sum() for name, values in more.items()}

    def _sums(self, model: LlamaForCausalLM, arrays: Arrays, n: int) -> mx.array:
        logprobs = target_logprobs(model, arrays, longest=self.shape.longest, keep=self.keep, chunk=self.chunk)
        return summed_by_owner(logprobs, arrays["owners"], n)

    def _reference(self, model: LlamaForCausalLM, arrays: Arrays, n: int, first: Any) -> mx.array:
        """Return the reference's log-probabilities, without dropout; the model's own values are put back."""
        current, training = model.trainable_parameters(), model.training
        model.update(first)
        model.eval()
        sums = self._sums(model, arrays, n)
        model.update(current)
        model.train(training)
        return sums

    def fingerprint(self) -> str:
        return sequences_fingerprint([sequence for unit in self.units for sequence in unit.sequences])


def row_shape(units: Sequence[Unit], batch_size: int, min_row: int) -> RowShape:
    """Return rows that hold the longest sequence, and a batch's sequences in few of them."""
    lengths = [sequence.length for unit in units for sequence in unit.sequences]
    return RowShape(batch_size, row_length(max(lengths), sum(lengths), 1, min_row), max(lengths))


def dpo_loss(beta: float, kind: str = "sigmoid", label_smoothing: float = 0.0) -> UnitLoss:
    """Return DPO's loss of pairs (chosen, rejected). Sources: https://arxiv.org/abs/2305.18290; IPO:
    https://arxiv.org/abs/2310.12036, with the mean over tokens as in TRL; smoothing: cDPO,
    https://ericmitchell.ai/cdpo.pdf.
    """

    def loss(sums: Sums) -> tuple[mx.array, dict[str, mx.array]]:
        assert sums.reference is not None, "DPO has a reference"
        gains = sums.policy - sums.reference
        if kind == "ipo":
            means = gains / sums.tokens
            losses = mx.square(means[:, 0] - means[:, 1] - 1 / (2 * beta))
        else:
            margin = beta * (gains[:, 0] - gains[:, 1])
            losses = -(1 - label_smoothing) * nn.log_sigmoid(margin) - label_smoothing * nn.log_sigmoid(-margin)
        return losses, _pair_report(beta * gains)

    return loss


def orpo_loss(beta: float) -> UnitLoss:
    """Return ORPO's loss of pairs: likelihood of the chosen one, plus beta times the odds ratio.

    Source: https://arxiv.org/abs/2403.07691, equations 6 and 7.
    """

    def loss(sums: Sums) -> tuple[mx.array, dict[str, mx.array]]:
        means = sums.policy / sums.tokens
        odds = means - mx.log1p(-mx.minimum(mx.exp(means), 1 - 1e-6))
        losses = -means[:, 0] - beta * nn.log_sigmoid(odds[:, 0] - odds[:, 1])
        return losses, _pair_report(beta * means)

    return loss


def kto_loss(beta: float, desirable_weight: float = 1.0, undesirable_weight: float = 1.0) -> UnitLoss:
    """Return KTO's loss of units (answer, another unit's answer to the same prompt), signed by whether it is desirable.

    The second sequence estimates how far the model has moved from the reference. Source:
    https://arxiv.org/abs/2402.01306, equation 8.
    """

    def loss(sums: Sums) -> tuple[mx.array, dict[str, mx.array]]:
        assert sums.reference is not None, "KTO has a reference"
        gains = sums.policy - sums.reference
        drift = mx.maximum(mx.stop_gradient(gains[:, 1].mean()), 0.0)
        weights = mx.where(sums.signs > 0, desirable_weight, undesirable_weight)
        losses = weights * (1 - mx.sigmoid(sums.signs * beta * (gains[:, 0] - drift)))
        reward = mx.stop_gradient(beta * gains[:, 0])
        right = (sums.signs * (reward - beta * drift) > 0).astype(mx.float32)
        return losses, {"accuracy": right, "signed reward": sums.signs * reward}

    return loss


def _pair_report(rewards: mx.array) -> dict[str, mx.array]:
    """Return margin and accuracy of rewards (pairs, 2)."""
    margin = mx.stop_gradient(rewards[:, 0] - rewards[:, 1])
    return {"margin": margin, "accuracy": (margin > 0).astype(mx.float32)}


def mismatched(samples: Sequence[Example], seed: int) -> list[Example]:
    """Return for each example its prompt followed by another one's answer."""
    order = np.random.default_rng([seed, 2]).permutation(len(samples)).tolist()
    following = dict(zip(order, [*order[1:], order[0]], strict=True))
    made = []
    for number, example in enumerate(samples):
        other = samples[following[number]]
        ids = np.concatenate([example.ids[~_answer(example)], other.ids[_answer(other)]])
        is_target = np.arange(len(ids)) >= len(example.ids) - int(_answer(example).sum())
        made.append(Example(ids, is_target, example.where))
    return made


def _answer(example: Example) -> np.ndarray:
    """Return which tokens belong to the answer: all from the first target on."""
    first = int(np.argmax(example.is_target)) if example.is_target.any() else len(example.ids)
    return np.arange(len(example.ids)) >= first
