"""The caller's own logits processors and sampler: functions of the signatures that mlx-lm has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from ..errors import RequestError
from .options import GenerationOptions

LogitsProcessor = Callable[[mx.array, mx.array], mx.array]
"""Takes all tokens so far (n,), prompt included, and logits (1, V); returns logits (1, V)."""
TokenSampler = Callable[[mx.array], mx.array]
"""Takes log-probabilities (1, V); returns the token (1,)."""


@dataclass(frozen=True)
class CustomSampling:
    """The functions of one answer and all its tokens so far (n,), prompt included, on the device."""

    processors: Sequence[LogitsProcessor]
    sampler: TokenSampler | None
    tokens: mx.array

    def process(self, logits: mx.array) -> mx.array:
        """Return logits (1, V) as the processors change them; raises RequestError for another shape."""
        for processor in self.processors:
            processed = processor(self.tokens, logits)
            if not isinstance(processed, mx.array) or processed.shape != logits.shape:
                raise RequestError(
                    f"a logits processor must return an array of shape {logits.shape}, not {_described(processed)}"
                )
            logits = processed.astype(logits.dtype)
        return logits

    def sample(self, logits: mx.array) -> mx.array:
        """Return the token (1,) that the caller's sampler chooses from logits (1, V)."""
        assert self.sampler is not None, "the caller has a sampler"
        logits = logits.astype(mx.float32)
        token = self.sampler(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        if not isinstance(token, mx.array) or token.size != 1 or not mx.issubdtype(token.dtype, mx.integer):
            raise RequestError(f"a sampler must return one token id as an array of shape (1,), not {_described(token)}")
        return token.reshape(1).astype(mx.int32)

    def add(self, token: mx.array) -> "CustomSampling":
        """Return the functions with one more token (1,)."""
        return replace(self, tokens=mx.concatenate([self.tokens, token.astype(self.tokens.dtype)]))


def make_custom_sampling(options: GenerationOptions, prompt: Sequence[int]) -> CustomSampling | None:
    """Return the functions that the options name, None without any."""
    if not options.logits_processors and options.sampler is None:
        return None
    return CustomSampling(tuple(options.logits_processors), options.sampler, mx.array(list(prompt), mx.int32))


def _described(value: object) -> str:
    return f"{value.dtype} of shape {value.shape}" if isinstance(value, mx.array) else f"{value!r:.80}"
