"""Batches that are under way in a pipeline at the same time: what a host (see node_host.py) finds."""

import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import llama3_mlx  # noqa: F401  # isort: skip
import mlx.core as mx

from llama3_mlx.checkpoint.folder import ModelFolder
from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.distributed.loading import lead, load_split_model, release
from llama3_mlx.distributed.split_model import LeaderLlama
from llama3_mlx.engine import scheduler
from llama3_mlx.model.transformer import LlamaForCausalLM

from .engine_worker import as_machines, load

PROMPTS = ([5, 6, 7, 8], [9, 10, 11, 12, 13, 14], [15], [16, 17])


def prefilled(model: LlamaForCausalLM, prompts: tuple[list[int], ...]) -> list[Any]:
    """Return a KV cache for each prompt, computed."""
    caches = [model.make_cache() for _ in prompts]
    for prompt, cache in zip(prompts, caches, strict=True):
        mx.eval(model(mx.array([prompt]), cache), cache.arrays)
    return caches


def stopped(size: int, folder: str) -> dict[str, Any]:
    """Return how far logits are from one process's where rank 0 began a pass for each stage while the others stood.

    Another pass, of a prompt, is evaluated before them.
    """
    nodes = lead(size)
    assert nodes.local is not None
    whole = load_model(Path(folder), dtype="float32")
    with as_machines(head=False):
        model = load_split_model(ModelFolder(Path(folder)), nodes, split="pipeline", dtype="float32")
    tokens, prompts = mx.array([[3]]), PROMPTS[:size]
    caches, own = prefilled(model, prompts), prefilled(whole, prompts)
    for process in nodes.local.processes:
        process.send_signal(signal.SIGSTOP)
    try:
        under_way = [model.begin(tokens, cache) for cache in caches]
        mx.eval([cache.arrays for cache in caches])
    finally:
        for process in nodes.local.processes:
            process.send_signal(signal.SIGCONT)
    last = mx.array([PROMPTS[3]])
    # Evaluated before what was begun before it.
    found = [model(last), *map(model.head, under_way)]
    expected = [whole(last), *(whole(tokens, cache) for cache in own)]
    differences = [float(mx.abs(one - other).max()) for one, other in zip(found, expected, strict=True)]
    del model, caches, found, under_way
    gc.collect()
    release(nodes)
    return {"difference": max(differences), "count": len(differences)}


@contextmanager
def traced(events: list[tuple[str, int]]) -> Iterator[None]:
    """Record the passes that are begun and completed, by the numbers of their KV caches."""
    begin, complete = LeaderLlama.begin, LeaderLlama.complete
    numbers: dict[int, int] = {}
    kept: list[mx.array] = []

    def begun(self: LeaderLlama, tokens: mx.array, cache: Any, tap: Any = None) -> mx.array:
        h = begin(self, tokens, cache, tap)
        # Kept, so that no other array gets its id.
        kept.append(h)
        numbers[id(h)] = cache.number
        events.append(("begin", cache.number))
        return h

    def completed(self: LeaderLlama, h: mx.array | None = None) -> None:
        before = list(self._under_way)
        complete(self, h)
        events.extend(("complete", numbers[id(each)]) for each in before[: len(before) - len(self._under_way)])

    with mock.patch.object(LeaderLlama, "begin", begun), mock.patch.object(LeaderLlama, "complete", completed):
        yield


def engine(size: int, folder: str) -> dict[str, Any]:
    """Return what is generated in one process and over all, and the passes that were begun and completed meanwhile."""
    prompts = [[40 + at, *range(60, 64 + at)] for at in range(2 * size)]
    settings: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "ignore_eos": True, "speculate": False}
    events: list[tuple[str, int]] = []
    found: dict[str, Any] = {"events": events}
    for name, nodes in (("one", 1), ("all", size)):
        with load(nodes, "pipeline", folder) as llama, traced(events):
            found[name] = [list(each.token_ids) for each in llama.generate_batch(prompts, **settings)]
    return found


def preempted(size: int, folder: str) -> dict[str, Any]:
    """Return what is generated one by one in one process, over all where memory gets short, and what was preempted."""
    prompts = [[40 + at, *range(60, 95)] for at in range(3)]
    settings: dict[str, Any] = {"max_tokens": 60, "temperature": 1.0, "ignore_eos": True, "speculate": False}
    found: dict[str, Any] = {}
    with load(1, "pipeline", folder) as llama:
        done = [llama.generate(prompt, seed=at, **settings) for at, prompt in enumerate(prompts)]
        found["one"] = [list(each.token_ids) for each in done]
    headroom = mock.patch.multiple(scheduler, _ADMISSION_HEADROOM=24, _STEP_HEADROOM=4)
    with load(size, "pipeline", folder) as llama, headroom:
        room = int(240 * llama.engine.settings.bytes_per_token)
        llama.engine.call(lambda: llama.engine.limit(room, 0))
        streams = [llama.stream(prompt, seed=at, **settings) for at, prompt in enumerate(prompts)]
        found["all"] = [list(stream.completion.token_ids) for stream in streams]
        found["preempted"] = llama.engine.counts.preempted
    return found
