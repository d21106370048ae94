"""The reduced vocabulary of a draft head: the tokens that the answers are made of, by how often they occur."""

from collections.abc import Sequence

import numpy as np

from ...errors import RequestError
from ..data.encoding import Example

# Of the public heads for Llama 3, whose vocabulary has 128,256.
_DEFAULT = 32_000


def token_counts(examples: Sequence[Example], vocab_size: int) -> np.ndarray:
    """Return how often each token (V,) is a target."""
    counts = np.zeros(vocab_size, np.int64)
    for example in examples:
        counts += np.bincount(example.ids[1:][example.is_target[1:]], minlength=vocab_size)
    return counts


def choose_vocabulary(counts: np.ndarray, size: int | None) -> list[int]:
    """Return the ids of the most frequent tokens, ascending; of equally frequent ones the lower ids.

    Lower ids were merged earlier by the tokenizer, and so are the more frequent ones in general. Raises RequestError
    for more tokens than there are.
    """
    if size is not None and size > len(counts):
        raise RequestError(f"vocabulary must be at most {len(counts)}, the number of the model's tokens, not {size}")
    chosen = np.argsort(-counts, kind="stable")[: size or min(_DEFAULT, len(counts))]
    return [int(token) for token in np.sort(chosen)]


def vocabulary_note(counts: np.ndarray, ids: Sequence[int]) -> str:
    """Return how much of the answers the vocabulary has."""
    share = counts[list(ids)].sum() / max(1, counts.sum())
    return f"the head drafts {len(ids):,} of {len(counts):,} tokens, which are {share:.2%} of the answers"
