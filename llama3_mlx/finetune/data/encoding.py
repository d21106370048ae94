"""Examples to token ids and marks of which of them are targets; control tokens come from the dialog format alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...chat.dialog import Dialog
from ...errors import DataError, DialogError
from ...json_types import JsonMapping
from ...tokenizer.tokenizer import Tokenizer
from .encoded_cache import LEAST_SAMPLES, EncodedCache
from .records import collected
from .samples import Sample

_PROGRESS_EVERY = 250


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
        parse_special: bool = False,
    ) -> None:
        """`end_id` ends a text. `plain` writes prompt and completion without a dialog format.

        `parse_special` takes control tokens that are written out in texts as such. `cache` and `progress` are set
        afterwards, where they are wanted.
        """
        self.tokenizer, self.dialog, self.end_id = tokenizer, dialog, end_id
        self.max_length, self.train_on, self.plain = max_length, train_on, plain
        self.parse_special = parse_special

        self.cache: EncodedCache | None = None
        self.progress: Callable[[int, int], None] | None = None

    def __call__(self, sample: Sample) -> Example:
        """Return the example, cut to `max_length` tokens; raises DataError or DialogError."""
        ids, marks = self._encoded(sample)
        cut = max(0, len(ids) - self.max_length)
        return _example(ids[: self.max_length], marks[: self.max_length], sample.where, cut)

    def examples(self, sample: Sample) -> list[Example]:
        """Return the example; of a text that is longer than `max_length` as many as all its tokens take.

        Each begins with the last token of the one before, so that every token but the first is a target.
        """
        if sample.messages is not None or sample.prompt is not None:
            return [self(sample)]
        ids, marks = self._encoded(sample)
        step = self.max_length - 1
        starts = range(0, max(1, len(ids) - 1), step)
        parts = [(ids[at : at + self.max_length], marks[at : at + self.max_length]) for at in starts]
        return [
            _example(part, part_marks, f"{sample.where}, part {number}" if len(parts) > 1 else sample.where)
            for number, (part, part_marks) in enumerate(parts, start=1)
        ]

    def holds_control_tokens(self, sample: Sample) -> bool:
        """Return whether a text has control tokens written out in it, as one that was rendered before has."""
        text = (sample.prompt or "") + sample.completion
        return "<" in text and any(token in text for token in self.tokenizer.control_tokens)

    def _encoded(self, sample: Sample) -> tuple[list[int], list[bool]]:
        messages = sample.messages
        if messages is None and sample.prompt is not None and self.dialog is not None and not self.plain:
            messages = as_dialog(sample)
        ids, marks = self._text(sample) if messages is None else self._messages(messages, sample)
        return ids, [True] * len(ids) if self.train_on == "all" else marks

    def _messages(self, messages: Sequence[JsonMapping], sample: Sample) -> tuple[list[int], list[bool]]:
        if self.dialog is None:
            raise DataError("it is a dialog, but this base model has no dialog format: use text or an instruct model")
        ids, marks = self.dialog.encode_with_mask(messages, tools=sample.tools)
        if sample.weights is not None:
            marks = _weighted(marks, sample.weights)
        if not any(marks):
            raise DataError("there is no assistant's turn to learn from")
        return ids, marks

    def _text(self, sample: Sample) -> tuple[list[int], list[bool]]:
        turns = [text for pair in sample.history for text in pair]
        before = "\n\n".join(filter(None, [sample.system, *turns, sample.prompt]))
        if not self.parse_special:
            prompt = self.tokenizer.encode(before, bos=True)
            completion = [*self.tokenizer.encode(sample.completion), self.end_id]
        else:
            prompt = self.tokenizer.encode_rendered(before)
            completion = self.tokenizer.encode_rendered(sample.completion)
            begin = self.tokenizer.encode("", bos=True)
            prompt = prompt if [*prompt, *completion][: len(begin)] == begin else begin + prompt
            ends = {self.end_id, *self.tokenizer.stop_ids}
            completion = completion if completion and completion[-1] in ends else [*completion, self.end_id]
        counts = sample.prompt is None
        return prompt + completion, [counts] * len(prompt) + [True] * len(completion)


def _example(ids: Sequence[int], marks: Sequence[bool], where: str, cut: int = 0) -> Example:
    return Example(np.array(ids, np.int32), np.array(marks, np.bool_), where, cut)


def as_dialog(sample: Sample) -> list[JsonMapping]:
    """Return a prompt and its completion, and what comes before them, as messages."""
    turns = [*sample.history, (sample.prompt or "", sample.completion)]
    messages = [{"role": "system", "content": sample.system}] if sample.system else []
    for prompt, answer in turns:
        messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return [*messages]


def _weighted(marks: Sequence[bool], weights: Sequence[bool]) -> list[bool]:
    """Return the marks without those of the assistant's messages whose weight is 0."""
    starts = [at for at, mark in enumerate(marks) if mark and (at == 0 or not marks[at - 1])]
    if len(starts) != len(weights):
        raise DataError("the weights of its messages can't be matched with what the chat template writes")
    made = [False] * len(marks)
    for start, weight in zip(starts, weights, strict=True):
        at = start
        while weight and at < len(marks) and marks[at]:
            made[at] = True
            at += 1
    return made


def encode_all(
    encoder: ExampleEncoder, samples: Sequence[Sample], problems: list[str] | None = None, *, split_texts: bool = False
) -> list[Example]:
    """Encode the samples; raises DataError with all that can't be, or adds them to `problems` where it is given.

    With `split_texts` a long text becomes several examples. A large set is kept where the encoder has a cache.
    """
    cache = encoder.cache if len(samples) >= LEAST_SAMPLES else None
    path = cache.path(samples, split_texts=split_texts) if cache else Path()
    if cache and (stored := cache.load(path)) is not None:
        return [Example(*fields) for fields in stored]
    examples: list[Example] = []
    with collected(problems) as bad:
        known = len(bad)
        for number, sample in enumerate(samples):
            if encoder.progress and number % _PROGRESS_EVERY == 0:
                encoder.progress(number, len(samples))
            try:
                examples += encoder.examples(sample) if split_texts else [encoder(sample)]
            except (DataError, DialogError) as error:
                bad.append(f"{sample.where}: {error}")
        complete = len(bad) == known
    if cache and complete and examples:
        cache.save(path, [(each.ids, each.is_target, each.where, each.truncated) for each in examples])
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
