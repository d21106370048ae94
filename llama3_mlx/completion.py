"""What a generation gives back: pieces while it runs, a completion when it has ended."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of a generation and the tokens that came in since the piece before."""

    text: str
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished generation. `token_ids` hold what was written, the stop token left out.

    `finish_reason` is "stop" for a stop token or stop text, "length" for the limit. Rates are tokens a second; the
    prompt's counts the tokens that were run (`prompt_tokens` less `cached_tokens`).
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int
    prompt_tokens_per_second: float
    tokens_per_second: float
    peak_memory_bytes: int


class Stream(Iterator[Piece]):
    """Pieces of a running generation; `completion` holds the whole once the last piece is out.

    Closing it, or leaving its `with` block, ends the generation; `completion` is then what was written so far.
    """

    def __init__(self, pieces: Generator[Piece, None, None], complete: Callable[[], Completion]) -> None:
        self._pieces = pieces
        self._complete = complete

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        return next(self._pieces)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the generation at once."""
        self._pieces.close()

    @property
    def completion(self) -> Completion:
        """The completion of what has been written so far."""
        return self._complete()
