"""Examples to token ids and marks of which of them are targets; control tokens come from the dialog format alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...chat.dialog import Dialog
from ...errors import DataError, DialogError
from ...tokenizer.tokenizer import Tokenizer
from .formats import Sample
from .records import collected


@dataclass(frozen=True)
class Example:
    """Token ids and which of them count as targets; the first never does, since nothing predicts it."""

    ids: np.ndarray
    is_target: np.ndarray
    where: str = ""
    truncated: int = 0

    @property
    def length(self) -> int:
        """Positions that the example takes in a row: every token but the last is an input."""
        return len(self.ids) - 1

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return int(self.is_target[1:].sum())


class ExampleEncoder:
    """Encodes samples for one model."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        dialog: Dialog | None,
        end_id: int,
        *,
        max_length: int,
        train_on: str = "auto",
        plain: bool = False,
    ) -> None:
        """`end_id` ends a text. `plain` writes prompt and completion without a dialog format."""
        self.tokenizer, self.dialog, self.end_id = tokenizer, dialog, end_id
        self.max_length, self.train_on, self.plain = max_length, train_on, plain

    def __call__(self, sample: Sample) -> Example:
        """Return the example, cut to `max_length` tokens; raises DataError or DialogError."""
        messages = sample.messages
        if messages is None and sample.prompt is not None and self.dialog is not None and not self.plain:
            messages = [
                {"role": "user", "content": sample.prompt},
                {"role": "assistant", "content": sample.completion},
            ]
        ids, marks = self._text(sample) if messages is None else self._messages(messages, sample.tools)
        if self.train_on == "all":
            marks = [True] * len(ids)
        cut = max(0, len(ids) - self.max_length)
        ids, marks = ids[: self.max_length], marks[: self.max_length]
        return Example(np.array(ids, np.int32), np.array(marks, np.bool_), sample.where, cut)

    def _messages(self, messages: Sequence[Any], tools: list[Any] | None) -> tuple[list[int], list[bool]]:
        if self.dialog is None:
            raise DataError("it is a dialog, but this base model has no dialog format: use text or an instruct model")
        ids, marks = self.dialog.encode_with_mask(messages, tools=tools)
        if not any(marks):
            raise DataError("there is no assistant's turn to learn from")
        return ids, marks

    def _text(self, sample: Sample) -> tuple[list[int], list[bool]]:
        prompt = self.tokenizer.encode(sample.prompt or "", bos=True)
        completion = [*self.tokenizer.encode(sample.completion), self.end_id]
        counts = sample.prompt is None
        return prompt + completion, [counts] * len(prompt) + [True] * len(completion)


def encode_all(
    encode: Callable[[Sample], Example], samples: Sequence[Sample], problems: list[str] | None = None
) -> list[Example]:
    """Encode the samples; raises DataError with all that can't be, or adds them to `problems` where it is given."""
    examples = []
    with collected(problems) as bad:
        for sample in samples:
            try:
                examples.append(encode(sample))
            except (DataError, DialogError) as error:
                bad.append(f"{sample.where}: {error}")
    return examples


def keep_with_targets(examples: Sequence[Example], max_length: int) -> list[Example]:
    """Return the examples with target tokens left; raises DataError if there is none."""
    kept = [example for example in examples if example.n_targets]
    if not kept:
        raise DataError(
            f"in all {len(examples)} examples the target tokens lie beyond max_length {max_length}: "
            "raise it or shorten the prompts"
            if examples
            else "there are no examples"
        )
    return kept


def end_token(tokenizer: Tokenizer, eos_ids: Sequence[int]) -> int:
    """Return the id that ends a text: the config's first, else a stop token of the tokenizer."""
    ends = [*eos_ids, *tokenizer.stop_ids]
    if not ends:
        raise DataError("neither config.json nor the tokenizer names a token that ends a text")
    return ends[0]


def last_turn(examples: Sequence[Example]) -> list[Example]:
    """Return the examples with only the last run of target tokens marked: the answer that was judged."""
    made = []
    for example in examples:
        marks = example.is_target.copy()
        ends = np.flatnonzero(marks[:-1] & ~marks[1:])
        stretches = [end for end in ends if marks[end + 1 :].any()]
        if stretches:
            marks[: stretches[-1] + 1] = False
        made.append(Example(example.ids, marks, example.where, example.truncated))
    return made
