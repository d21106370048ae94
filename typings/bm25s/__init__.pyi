# The part of bm25s that the examples use, which has no types of its own (bm25s 0.3, `__init__.py`, `tokenization.py`).

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

class Tokenized(NamedTuple):
    ids: list[list[int]]
    vocab: dict[str, int]

class Results(NamedTuple):
    documents: NDArray[np.integer]
    scores: NDArray[np.float32]

class BM25:
    def __init__(self) -> None: ...
    def index(self, corpus: Sequence[Sequence[str]] | Tokenized, *, show_progress: bool = True) -> None: ...
    def retrieve(
        self, query_tokens: Sequence[Sequence[str]] | Tokenized, *, k: int = 10, show_progress: bool = True
    ) -> Results: ...

def tokenize(texts: str | Sequence[str], *, show_progress: bool = True) -> Tokenized: ...
