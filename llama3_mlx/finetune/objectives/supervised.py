"""Supervised fine-tuning: the next token of what the assistant says, over packed rows."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ...device import back_end
from ...model.transformer import LlamaForCausalLM
from ...trees import Tree
from .. import distributed
from ..data.encoding import Example
from ..data.order import BatchOrder
from ..data.packing import batch_rows, make_batch, row_length
from ..kernels.chunked_loss import chunk_size, head_function, head_loss
from ..kernels.forward import hidden_states
from .objective import Loss, Objective, TrainBatch
from .sequences import sequences_fingerprint

# Target positions of a row are filled up to a multiple of this where nothing is compiled for their number.
CPU_FILLING = 32


@dataclass(frozen=True)
class RowShape:
    """The fixed shape of training rows: `longest` is the length of the longest example in any of them."""

    batch_size: int
    length: int
    longest: int


class RowObjective(Objective):
    """An objective over packed rows of examples, each row one of a batch's, with data to validate and test on."""

    shape: RowShape

    def _arrange(self, parts: Sequence[Sequence[Example]], shape: RowShape, *, packing: bool, seed: int) -> None:
        """Put the examples, those to train, validate and test on, into rows of a shape."""
        self.examples, self.valid_examples, self.test_examples = parts
        self.shape, self.packing = shape, packing
        self._order = BatchOrder(lambda rng: self._rows(self.examples, rng), seed)
        self.per_epoch = self._order.per_epoch

    def batch(self, index: int) -> TrainBatch:
        return self._made(self.examples, self._order[index])

    @property
    def validates(self) -> bool:
        return bool(self.valid_examples)

    def validation(self) -> list[TrainBatch]:
        return self._in_order(self.valid_examples)

    def test(self) -> list[TrainBatch]:
        return self._in_order(self.test_examples)

    def _in_order(self, examples: Sequence[Example]) -> list[TrainBatch]:
        if not examples:
            return []
        return [self._made(examples, rows) for rows in self._rows(examples, np.random.default_rng(0))]

    def _rows(self, examples: Sequence[Example], rng: np.random.Generator) -> list[list[list[int]]]:
        lengths = [self._length(example) for example in examples]
        return batch_rows(lengths, self.shape.length, self.shape.batch_size, rng, packing=self.packing)

    def _row_length(self, examples: Sequence[Example], rows: Sequence[Sequence[int]]) -> int:
        """Return the length of a batch's rows."""
        if self.packing and back_end().compiles_steps:
            return self.shape.length
        # Where steps are compiled every length is a graph; elsewhere shorter rows are nothing but less work.
        longest = max(sum(self._length(examples[number]) for number in row) for row in rows)
        return row_length(longest, longest, 1)

    @abstractmethod
    def _length(self, example: Example) -> int:
        """Return how many positions of a row an example takes."""

    @abstractmethod
    def _made(self, examples: Sequence[Example], rows: Sequence[Sequence[int]]) -> TrainBatch:
        """Return this process's share of a batch; its count is the share's."""


class Supervised(RowObjective):
    """Cross entropy of the target tokens, each of them counting the same."""

    def __init__(
        self,
        examples: Sequence[Example],
        valid: Sequence[Example],
        test: Sequence[Example] = (),
        *,
        batch_size: int,
        vocab_size: int,
        row: int | None = 512,
        packing: bool = True,
        keep: str = "light",
        seed: int = 0,
    ) -> None:
        """`row` is the least length of packed rows; `batch_size` rows are shared out over the processes."""
        self.keep = keep
        lengths = [example.length for example in (*examples, *valid, *test)]
        shape = RowShape(
            batch_size, row_length(max(lengths), sum(lengths), batch_size, row if packing else None), max(lengths)
        )
        self.chunk = chunk_size(vocab_size, shape.length)
        self._arrange((examples, valid, test), shape, packing=packing, seed=seed)

    def _length(self, example: Example) -> int:
        return example.length

    def _made(self, examples: Sequence[Example], rows: Sequence[Sequence[int]]) -> TrainBatch:
        mine = rows[distributed.rank() :: distributed.size()]
        filling = self.chunk if back_end().compiles_steps else CPU_FILLING
        made = make_batch(examples, mine, self._row_length(examples, rows), filling)
        names = ("tokens", "segments", "positions", "targets", "weights")
        arrays = {name: getattr(made, name) for name in names}
        return TrainBatch(arrays, made.n_targets, made.n_tokens, made.n_targets, made.where)

    def loss(self, model: LlamaForCausalLM, arrays: Mapping[str, mx.array], constants: Tree = None) -> Loss:
        h = hidden_states(model, arrays["tokens"], arrays["segments"], longest=self.shape.longest, keep=self.keep)
        h = h.reshape(-1, h.shape[-1])[arrays["positions"]]
        head, parameters = head_function(model)
        return head_loss(head, parameters, h, arrays["targets"], arrays["weights"], chunk=self.chunk), {}

    def fingerprint(self) -> str:
        return sequences_fingerprint(self.examples)
