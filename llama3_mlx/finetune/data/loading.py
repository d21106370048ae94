"""What the ways of training share in reading their data: splits, bad examples, notes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from ...errors import DataError
from ..settings import RunSettings
from .encoding import ExampleEncoder
from .formats import unread_columns
from .records import Record, in_order, raise_problems, read_columns, read_file, read_records, renamed
from .samples import Sample
from .sources import GivenData, Source, names

T = TypeVar("T")


class DataReader:
    """Reads the data of a run; what is wrong with examples is gathered, then raised or, with `skip_bad`, noted."""

    def __init__(self, data: Sequence[Source], valid: Sequence[Source], settings: RunSettings) -> None:
        self.data, self.valid_data, self.settings = data, valid, settings
        self.columns = read_columns(settings.columns)
        self.problems: list[str] = []

    def train(self) -> list[Record]:
        """Return the examples to train on."""
        return read_records(self.data, "train", self.problems, self.columns)

    def test(self) -> list[Record]:
        """Return the test examples of the data's folders."""
        return read_records(self.data, "test", self.problems, self.columns)

    def valid(self) -> list[Record]:
        """Return the validation examples: of the sources named for it, else of the data's folders.

        Raises DataError where what was named for it gives nothing.
        """
        if not self.valid_data:
            return read_records(self.data, "valid", self.problems, self.columns)
        records = [record for source in self.valid_data for record in self._named(source)]
        if not records and not self.problems:
            shown = ", ".join(names(self.valid_data))
            raise DataError(f"{shown}: there are no examples to validate on (valid.jsonl) in it")
        return renamed(records, self.columns)

    def _named(self, source: Source) -> list[Record]:
        if isinstance(source, GivenData):
            divided = callable(source.values) or isinstance(source.values, dict)
            return read_records([source], "valid" if divided else "train", self.problems)
        path = Path(source).expanduser()
        return read_file(path, self.problems) if path.is_file() else read_records([source], "valid", self.problems)

    def notes(self) -> tuple[str, ...]:
        """Raise DataError with all that is wrong with examples; with `skip_bad` return it in words instead."""
        if not self.settings.skip_bad:
            raise_problems(self.problems)
        found = in_order(self.problems)
        return (f"{len(found):,} bad examples are left out, such as {found[0]}",) if found else ()


def column_notes(records: Sequence[Record], layout: str = "auto") -> tuple[str, ...]:
    """Return what to tell of columns that nothing reads."""
    unread = unread_columns(records, layout)
    return (f"columns not read: {', '.join(unread)}",) if unread else ()


def control_notes(encoder: ExampleEncoder, samples: Sequence[Sample]) -> tuple[str, ...]:
    """Return what to tell of texts that a template has rendered before."""
    found = [sample for sample in samples if sample.messages is None and encoder.holds_control_tokens(sample)]
    if not found or encoder.parse_special:
        return ()
    token = next(
        token for token in encoder.tokenizer.control_tokens if token in (found[0].prompt or "") + found[0].completion
    )
    return (
        f"{len(found):,} of {len(samples):,} texts have control tokens such as {token} written out in them, which stay "
        "ordinary characters: give messages instead, or --parse-special for text that you trust",
    )


def split_off(examples: Sequence[T], share: float, seed: int) -> tuple[list[T], list[T]]:
    """Return examples and those set apart for validation: at least one, at most all but one."""
    order = np.random.default_rng([seed, 1]).permutation(len(examples)).tolist()
    n_valid = min(max(1, round(share * len(examples))), len(examples) - 1)
    return [examples[i] for i in sorted(order[n_valid:])], [examples[i] for i in sorted(order[:n_valid])]


def split_note(valid: Sequence[object]) -> str:
    """Return what to tell of examples that were set apart."""
    return f"{len(valid):,} of them are set apart to validate on"
