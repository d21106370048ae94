"""One sequence: prefill in chunks, then decode steps that run one ahead of the host."""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import mlx.core as mx

from .cache import ModelCache
from .errors import CheckpointError, ContextLengthError, RequestError
from .model import LlamaForCausalLM
from .options import GenerationOptions
from .sampling import make_sampler, penalise_repetition, step_key

PREFILL_CHUNK = 2048
_CLEAR_EVERY = 256

PrefillProgress = Callable[[int, int], None]


@dataclass
class Timing:
    """Seconds spent on the prompt and on the tokens after the first."""

    prompt_s: float = 0.0
    decode_s: float = 0.0


def check_length(prompt: Sequence[int], max_tokens: int | None, context: int) -> int:
    """Return how many tokens may be written; raises where prompt and answer can't fit the context."""
    if not prompt:
        raise RequestError("the prompt is empty: give at least one token")
    room = context - len(prompt)
    if room < 1:
        raise ContextLengthError(f"the prompt has {len(prompt)} tokens, but the model's context is {context}")
    if max_tokens is not None and max_tokens > room:
        raise ContextLengthError(
            f"the prompt has {len(prompt)} tokens and max_tokens is {max_tokens}, "
            f"but the model's context is {context}: ask for at most {room}"
        )
    return room if max_tokens is None else max_tokens


def prefill(
    model: LlamaForCausalLM,
    cache: ModelCache,
    prompt: Sequence[int],
    progress: PrefillProgress | None = None,
) -> mx.array:
    """Run the prompt (L,) through the model in chunks and return the logits of its last token, (1, V), unevaluated.

    The head runs for that one position alone.
    """
    tokens = mx.array(list(prompt), mx.int32)[None]
    for start in range(0, len(prompt) - PREFILL_CHUNK, PREFILL_CHUNK):
        model.hidden(tokens[:, start : start + PREFILL_CHUNK], cache)
        mx.eval(cache.arrays)
        mx.clear_cache()
        if progress:
            progress(start + PREFILL_CHUNK, len(prompt))
    rest = (len(prompt) - 1) % PREFILL_CHUNK + 1
    return model.head(model.hidden(tokens[:, -rest:], cache)[:, -1])


def generate_tokens(
    model: LlamaForCausalLM,
    cache: ModelCache,
    prompt: Sequence[int],
    options: GenerationOptions,
    *,
    seen: Sequence[int] = (),
    timing: Timing | None = None,
    progress: PrefillProgress | None = None,
) -> Iterator[int]:
    """Yield up to `options.max_tokens` tokens that follow `prompt`, whose predecessors `seen` are in the cache.

    While the host looks at a token, the device computes the next one. Raises CheckpointError if the first logits
    aren't finite.
    """
    timing = timing or Timing()
    limit = options.max_tokens
    sample = make_sampler(options)
    penalty = options.repetition_penalty or 1.0
    seed = secrets.randbits(64) if options.seed is None else options.seed
    recent = mx.array([[*seen, *prompt][-options.repetition_window :]], mx.int32) if penalty != 1.0 else None
    began = time.perf_counter()

    def choose(logits: mx.array, step: int) -> mx.array:
        nonlocal recent
        if recent is None:
            return sample(logits, step_key(seed, step))
        token = sample(penalise_repetition(logits, recent, penalty), step_key(seed, step))
        recent = mx.concatenate([recent, token[:, None].astype(recent.dtype)], axis=1)
        recent = recent[:, -options.repetition_window :]
        return token

    if limit == 0:
        return
    logits = prefill(model, cache, prompt, progress)
    finite = mx.isfinite(logits).all()
    token = choose(logits, 0)
    mx.async_eval(token, finite)
    step = 0
    while True:
        step += 1
        ahead = None
        if limit is None or step < limit:
            ahead = choose(model.head(model.hidden(token[:, None], cache)[:, -1]), step)
            mx.async_eval(ahead)
        value = int(cast(int, token.item()))
        if step == 1:
            if not finite.item():
                raise CheckpointError(
                    "the model's logits are not finite: its weights are damaged or overflow the dtype"
                )
            timing.prompt_s = time.perf_counter() - began
            began = time.perf_counter()
        timing.decode_s = time.perf_counter() - began
        yield value
        if ahead is None:
            return
        token = ahead
        if step % _CLEAR_EVERY == 0:
            mx.clear_cache()
