"""What `data check` tells: counts, lengths, what would be cut, and which tokens are targets."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from ...errors import DataError
from ...tokenizer.tokenizer import Tokenizer
from ..settings import TrainSettings
from .encoding import Example, ExampleEncoder, encode_all, last_turn
from .formats import has_labels, has_pairs, read_labeled, read_samples
from .loading import DataReader, column_notes, control_notes
from .packing import pack_examples, row_length
from .samples import Sample
from .sources import Sources, as_sources


@dataclass(frozen=True)
class DataFacts:
    """Numbers of a data set. `histogram` holds upper limit and count of each range of lengths."""

    examples: int
    tokens: int
    target_tokens: int
    shortest: int
    median: int
    longest: int
    cut: int
    nothing_left: int
    histogram: tuple[tuple[int, int], ...]
    packed_share: float
    padded_share: float


@dataclass(frozen=True)
class PlainFacts:
    """Numbers of a data set that no model is needed for; lengths are in characters."""

    examples: int
    kind: str
    characters: int
    shortest: int
    median: int
    longest: int


def plain_facts(sources: Sources, settings: TrainSettings) -> tuple[PlainFacts, tuple[str, ...]]:
    """Count the examples as they stand in the data, and return what to tell of them.

    Raises DataError with all that is wrong.
    """
    reader = DataReader(as_sources(sources), (), settings)
    records = reader.train()
    if settings.layout == "auto" and (has_pairs(records) or has_labels(records)):
        kind = "preferences" if has_pairs(records) else "judged answers"
        samples = [item.sample for item in read_labeled(records, reader.problems)]
    else:
        samples = read_samples(records, settings.layout, reader.problems)
        kinds = {"dialogs" if sample.messages is not None else "texts" for sample in samples}
        kind = " and ".join(sorted(kinds))
    notes = (*reader.notes(), *column_notes(records, settings.layout))
    lengths = [_characters(sample) for sample in samples]
    if not lengths:
        raise DataError("no example can be used")
    facts = PlainFacts(
        examples=len(records) - len(reader.problems),
        kind=kind,
        characters=sum(lengths),
        shortest=min(lengths),
        median=int(np.median(lengths)),
        longest=max(lengths),
    )
    return facts, notes


def _characters(sample: Sample) -> int:
    """Return the length of the texts of an example, without what a template puts around them."""
    if sample.messages is not None:
        return sum(len(content) for message in sample.messages if isinstance(content := message.get("content"), str))
    parts = [sample.system, sample.prompt or "", sample.completion, *(text for turn in sample.history for text in turn)]
    return sum(map(len, parts))


def read_examples(
    sources: Sources, encoder: ExampleEncoder, settings: TrainSettings
) -> tuple[list[Example], tuple[str, ...]]:
    """Return the examples of supervised data, or both sides of judged ones, and what to tell of them.

    Raises DataError with all that is wrong.
    """
    reader = DataReader(as_sources(sources), (), settings)
    records = reader.train()
    examples: list[Example] = []
    control: tuple[str, ...] = ()
    if settings.layout == "auto" and (has_pairs(records) or has_labels(records)):
        for item in read_labeled(records, reader.problems):
            name = "chosen" if item.desirable else "rejected"
            name = name if has_pairs(records) else "desirable" if item.desirable else "undesirable"
            side = replace(item.sample, where=f"{item.sample.where}, {name}")
            examples += last_turn(encode_all(encoder, [side], reader.problems))
    else:
        samples = read_samples(records, settings.layout, reader.problems)
        examples = encode_all(encoder, samples, reader.problems, split_texts=True)
        control = control_notes(encoder, samples)
    return examples, (*reader.notes(), *column_notes(records, settings.layout), *control)


def data_facts(examples: Sequence[Example], batch_size: int = 4) -> DataFacts:
    """Count the examples as they would be trained on."""
    lengths = [len(example.ids) for example in examples]
    inputs = [example.length for example in examples]
    row = row_length(max(inputs), sum(inputs), batch_size, 512)
    rows = len(pack_examples(inputs, row, range(len(inputs))))
    batches = [inputs[at : at + batch_size] for at in range(0, len(inputs), batch_size)]
    padded = sum(max(batch) * len(batch) for batch in batches)
    return DataFacts(
        examples=len(examples),
        tokens=sum(lengths),
        target_tokens=sum(example.n_targets for example in examples),
        shortest=min(lengths),
        median=int(np.median(lengths)),
        longest=max(lengths),
        cut=sum(example.truncated > 0 for example in examples),
        nothing_left=sum(example.n_targets == 0 for example in examples),
        histogram=_histogram([length + example.truncated for length, example in zip(lengths, examples, strict=True)]),
        packed_share=sum(inputs) / (rows * row),
        padded_share=sum(inputs) / padded if padded else 0.0,
    )


def _histogram(lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Count lengths up to each power of two."""
    counts: dict[int, int] = {}
    for length in lengths:
        limit = 1 << max(3, (length - 1).bit_length())
        counts[limit] = counts.get(limit, 0) + 1
    return tuple((limit, counts.get(limit, 0)) for limit in _powers(min(counts), max(counts)))


def _powers(low: int, high: int) -> list[int]:
    powers = [low]
    while powers[-1] < high:
        powers.append(2 * powers[-1])
    return powers


def marked_pieces(tokenizer: Tokenizer, example: Example) -> list[tuple[str, bool]]:
    r"""Return the text of an example in stretches of targets and of others, control tokens shown.

    What only spells a control token, in ordinary characters, has a backslash before it: `\<|eot_id|>`.
    """
    pieces: list[tuple[str, bool]] = []
    at = 0
    for stop in [*np.flatnonzero(np.diff(example.is_target)).tolist(), len(example.ids) - 1]:
        ids = example.ids[at : stop + 1].tolist()
        if ids:
            pieces.append((_shown(tokenizer, ids), bool(example.is_target[at])))
        at = stop + 1
    return pieces


def _shown(tokenizer: Tokenizer, ids: list[int]) -> str:
    control, text = frozenset(tokenizer.control_tokens.values()), tokenizer.decode(ids)
    spelled = re.compile("|".join(map(re.escape, tokenizer.control_tokens)) or r"(?!)")
    if len(spelled.findall(text)) == sum(token in control for token in ids):
        return text
    runs = [(is_control, tokenizer.decode(list(run))) for is_control, run in groupby(ids, control.__contains__)]
    return "".join(run if is_control else spelled.sub(r"\\\g<0>", run) for is_control, run in runs)
