"""What to measure: each setting once, with its help; the command line's flags come from here."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ContextLengthError, RequestError
from ..settings import setting, validate

_USUAL_LENGTHS = (128, 512, 2048)


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """Lengths, sizes and rounds of a benchmark; several numbers are written with commas."""

    lengths: str | None = setting(None, "prompt lengths, for prefill and as depths of decoding (default: 128,512,2048)")
    tokens: int = setting(64, "tokens to generate after each prompt", low=2)
    batch: str = setting("1,2,4,8", "batch sizes (0: none)")
    batch_length: int = setting(128, "prompt length of each of them", low=1)
    rounds: int = setting(3, "how often each figure is measured; the median is reported", low=1)
    seed: int = setting(0, "seed of the random prompts", low=0)

    def __post_init__(self) -> None:
        validate(self)
        _numbers("lengths", self.lengths or "1", low=1)
        _numbers("batch", self.batch, low=0)

    def sizes(self) -> tuple[int, ...]:
        """Return the numbers of requests in a batch."""
        return tuple(size for size in _numbers("batch", self.batch, low=0) if size)

    def depths(self, context: int) -> tuple[int, ...]:
        """Return the prompt lengths; raises ContextLengthError for one that doesn't fit the context."""
        room = context - self.tokens
        if self.lengths is None:
            return tuple(length for length in _USUAL_LENGTHS if length <= room) or (max(1, room),)
        requested = _numbers("lengths", self.lengths, low=1)
        longest = max((*requested, self.batch_length if self.sizes() else 0))
        if longest > room:
            raise ContextLengthError(
                f"a prompt of {longest} and {self.tokens} tokens more don't fit the model's context of {context}: "
                f"choose lengths up to {room}"
            )
        return requested


def _numbers(name: str, text: str, *, low: int) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise RequestError(f"{name} must be whole numbers with commas between them, not {text!r}") from None
    if min(numbers) < low:
        raise RequestError(f"{name} must be at least {low}, not {min(numbers)}")
    return tuple(dict.fromkeys(numbers))


def random_prompt(seed: Sequence[int], length: int, vocabulary: int) -> list[int]:
    """Return `length` random token ids, the same for the same seed; prompts of different seeds share no prefix.

    The last eighth of the vocabulary is left out, where Llama's control tokens are.
    """
    import numpy as np

    return np.random.default_rng(list(seed)).integers(0, max(1, vocabulary * 7 // 8), length).tolist()
