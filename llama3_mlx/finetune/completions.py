"""Several answers to one prompt at once: the prompt is read once, its cache copied, and all answers grow together."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..cache import ModelCache
from ..model import LlamaForCausalLM
from ..sampling import keep_top_p

# Tokens of a prompt that are run at once.
_PROMPT_STEP = 512


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn; temperature 0 takes the likeliest token."""

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Answer:
    """Token ids of an answer, the stop token included if it came to one."""

    ids: tuple[int, ...]
    stopped: bool


def sample_answers(
    model: LlamaForCausalLM, prompt: Sequence[int], n: int, sampling: Sampling, stop_ids: Collection[int], seed: int
) -> list[Answer]:
    """Return n answers to a prompt; the same for the same seed."""
    logits, cache = _read_prompt(model, prompt, n)
    ids: list[list[int]] = [[] for _ in range(n)]
    stopped = [False] * n
    rows = list(range(n))
    for step in range(sampling.max_tokens):
        tokens = _draw(logits, sampling, mx.random.key(((seed << 20) + step) % 2**64))
        values = np.array(tokens).tolist()
        for row, value in zip(rows, values, strict=True):
            if not stopped[row]:
                ids[row].append(value)
                stopped[row] = value in stop_ids
        alive = sum(not stopped[row] for row in rows)
        if not alive or step + 1 == sampling.max_tokens:
            break
        if alive <= len(rows) // 2:
            # Finished answers needn't be carried along; below half it pays to copy the others.
            for at in reversed([at for at, row in enumerate(rows) if stopped[row]]):
                cache.pop(at)
                rows[at], values[at] = rows[-1], values[-1]
                del rows[-1], values[-1]
        logits = model.head(model.hidden(mx.array(values)[:, None], cache)[:, -1])
    return [Answer(tuple(one), done) for one, done in zip(ids, stopped, strict=True)]


def _read_prompt(model: LlamaForCausalLM, prompt: Sequence[int], n: int) -> tuple[mx.array, ModelCache]:
    """Return the logits (n, V) behind the prompt and a cache of n rows of it."""
    read = model.make_cache()
    for at in range(0, len(prompt), _PROMPT_STEP):
        h = model.hidden(mx.array([prompt[at : at + _PROMPT_STEP]]), read)[:, -1]
        mx.eval(h, read.arrays)
    cache = read.copy()
    for _ in range(n - 1):
        cache.append(read)
    return mx.repeat(model.head(h), n, axis=0), cache


def _draw(logits: mx.array, sampling: Sampling, key: mx.array) -> mx.array:
    if sampling.temperature == 0:
        return mx.argmax(logits, axis=-1)
    logits = logits.astype(mx.float32) * (1 / sampling.temperature)
    if sampling.top_p < 1:
        logits = keep_top_p(logits, sampling.top_p)
    return mx.random.categorical(logits, key=key)
