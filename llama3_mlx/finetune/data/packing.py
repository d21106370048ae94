"""Arranges examples into rows of one length, so that every step has the same shape and few positions are wasted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .encoding import Example

# Row lengths are multiples of this.
STEP = 64


@dataclass(frozen=True)
class PackedBatch:
    """Packed rows as arrays: tokens and segments (B, L), targets of the target positions (n,).

    `positions` count through the flattened rows; the last of them may be filling, with weight 0.
    """

    tokens: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    where: tuple[str, ...]
    n_tokens: int
    n_targets: int


def row_length(longest: int, n_tokens: int, batch_size: int, min_length: int | None = None) -> int:
    """Return the length of rows: the longest example's, or `min_length` if that is more, in steps of STEP.

    Data that fit less than one batch make the rows no longer than they need.
    """
    longest = -(-longest // STEP) * STEP
    length = max(longest, min(min_length or longest, -(-n_tokens // batch_size // STEP) * STEP))
    return max(STEP, length)


def pack_examples(lengths: Sequence[int], row: int, order: Sequence[int]) -> list[list[int]]:
    """Return rows of example numbers: the longest first, each into the fullest row that has room for it.

    Among examples of equal length those earlier in `order` come first; the lengths alone decide how many rows there
    are. Source: best-fit decreasing, https://en.wikipedia.org/wiki/Bin_packing_problem.
    """
    rows: list[list[int]] = []
    by_space: dict[int, list[int]] = {}
    # Bit s is set while some row has s positions left.
    spaces = 0
    for number in sorted(order, key=lambda number: -lengths[number]):
        length = lengths[number]
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            index = by_space[space].pop()
            if not by_space[space]:
                spaces &= ~(1 << space)
        else:
            space, index = row, len(rows)
            rows.append([])
        rows[index].append(number)
        left = space - length
        by_space.setdefault(left, []).append(index)
        spaces |= 1 << left
    return rows


def batch_rows(
    lengths: Sequence[int], row: int, batch_size: int, rng: np.random.Generator, *, packing: bool
) -> list[list[list[int]]]:
    """Return the batches of an epoch, each up to `batch_size` rows of example numbers, in random order.

    Without packing every row has one example, and a batch has examples of like length.
    """
    order = rng.permutation(len(lengths)).tolist()
    if packing:
        rows = pack_examples(lengths, row, order)
        rows = [rows[i] for i in rng.permutation(len(rows))]
    else:
        rows = [[number] for number in sorted(order, key=lambda number: lengths[number])]
    batches = [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def make_batch(examples: Sequence[Example], rows: Sequence[Sequence[int]], length: int, filling: int) -> PackedBatch:
    """Return the arrays of a batch of rows; without rows, one that is empty.

    Target positions are filled up to a multiple of `filling`, so that their number takes few values.
    """
    tokens = np.zeros((max(1, len(rows)), length), np.int32)
    segments = np.zeros((max(1, len(rows)), length), np.int32)
    positions: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    for index, row in enumerate(rows):
        at = 0
        for segment, number in enumerate(row, start=1):
            example = examples[number]
            stop = at + example.length
            tokens[index, at:stop] = example.ids[:-1]
            segments[index, at:stop] = segment
            marked = np.flatnonzero(example.is_target[1:])
            positions.append(index * length + at + marked)
            targets.append(example.ids[1:][marked])
            at = stop
    n_targets = sum(map(len, positions))
    n_filled = max(filling, -(-n_targets // filling) * filling) - n_targets
    weights = np.ones(n_targets + n_filled, np.float32)
    weights[n_targets:] = 0
    return PackedBatch(
        tokens,
        segments,
        np.concatenate([*positions, np.zeros(n_filled, np.int64)]).astype(np.int32),
        np.concatenate([*targets, np.zeros(n_filled, np.int32)]).astype(np.int32),
        weights,
        tuple(examples[number].where for row in rows for number in row),
        int((segments > 0).sum()),
        n_targets,
    )
