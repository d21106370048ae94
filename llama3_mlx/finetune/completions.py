"""Several answers to one prompt at once: the prompt is read once, its cache copied, and all answers grow together."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..cache import KVCache, make_cache
from ..generation import prefill
from ..model import LlamaForCausalLM
from ..sampling import keep_top_p


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
    cache = make_cache(model.config.num_hidden_layers)
    logits = prefill(model, cache, prompt)
    caches = [_repeated(layer, n) for layer in cache]
    logits = mx.repeat(logits, n, axis=0)
    ids: list[list[int]] = [[] for _ in range(n)]
    stopped = [False] * n
    rows = list(range(n))
    for step in range(sampling.max_tokens):
        tokens = _draw(logits, sampling, mx.random.key((seed << 20) + step))
        values = np.array(tokens).tolist()
        for row, value in zip(rows, values, strict=True):
            if not stopped[row]:
                ids[row].append(value)
                stopped[row] = value in stop_ids
        alive = [at for at, row in enumerate(rows) if not stopped[row]]
        if not alive or step + 1 == sampling.max_tokens:
            break
        if len(alive) <= len(rows) // 2:
            # Finished answers needn't be carried along; below half it pays to copy the others.
            kept = mx.array(alive)
            rows, tokens = [rows[at] for at in alive], tokens[kept]
            caches = [_selected(layer, kept) for layer in caches]
        logits = model.head(model.hidden(tokens[:, None], caches)[:, -1])
    return [Answer(tuple(one), done) for one, done in zip(ids, stopped, strict=True)]


def _draw(logits: mx.array, sampling: Sampling, key: mx.array) -> mx.array:
    if sampling.temperature == 0:
        return mx.argmax(logits, axis=-1)
    logits = logits.astype(mx.float32) * (1 / sampling.temperature)
    if sampling.top_p < 1:
        logits = keep_top_p(logits, sampling.top_p)
    return mx.random.categorical(logits, key=key)


def _repeated(layer: KVCache, n: int) -> KVCache:
    return _with(layer, lambda array: mx.repeat(array, n, axis=0))


def _selected(layer: KVCache, rows: mx.array) -> KVCache:
    return _with(layer, lambda array: array[rows])


def _with(layer: KVCache, change: Callable[[mx.array], mx.array]) -> KVCache:
    made = KVCache()
    assert layer.keys is not None and layer.values is not None, "the cache has been filled"
    made.offset, made.keys, made.values = layer.offset, change(layer.keys), change(layer.values)
    return made
