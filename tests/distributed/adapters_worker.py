"""Adapters over some processes beside the same in a process alone: what a host (see node_host.py) finds."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from llama3_mlx import Llama  # isort: skip
import mlx.core as mx

from .engine_worker import load

PROMPT = [256, *range(65, 85)]


def logits(llama: Llama, choice: str | Mapping[str, float] | None) -> mx.array:
    """Return the logits of the prompt with an adapter, a mixture or none."""

    def run() -> mx.array:
        assert llama.adapters is not None
        llama.adapters.select(choice)
        found = llama.model(mx.array([PROMPT]))
        mx.eval(found)
        return found

    return llama.engine.call(run)


def answers(llama: Llama, choices: list[str | None]) -> list[list[int]]:
    """Return what is generated with each, all in one batch."""
    settings: dict[str, Any] = {"max_tokens": 12, "ignore_eos": True, "seed": 1}
    streams = [
        llama.stream(PROMPT[: 5 + at], adapter=choice, temperature=at % 2, **settings)
        for at, choice in enumerate(choices)
    ]
    return [list(stream.completion.token_ids) for stream in streams]


def compare(size: int, split: str, folder: str, adapters: dict[str, str], mixture: dict[str, float]) -> dict[str, Any]:
    """Return how far logits are apart, from one process's and from the base's, and what is generated in each."""
    choices: list[Any] = [None, *adapters, *([mixture] if mixture else [])]
    names: list[str | None] = [None, *adapters, *adapters]
    found: dict[str, Any] = {}
    for nodes in (1, size):
        with load(nodes, split, folder) as llama:
            for name, path in adapters.items():
                llama.load_adapter(name, path)
            found[f"logits {nodes}"] = [logits(llama, choice) for choice in choices]
            found[f"texts {nodes}"] = answers(llama, names if mixture else [*adapters] * 2)
            found["names"] = list(llama.adapter_names)
            held, first = llama.adapters, next(iter(adapters))
            assert held is not None
            llama.engine.call(partial(held.unload, first))
            found[f"logits {nodes}"].append(logits(llama, None))
    one, other = found.pop("logits 1"), found.pop(f"logits {size}")
    found["difference"] = max(float(mx.abs(a - b).max()) for a, b in zip(one, other, strict=True))
    found["effect"] = min(float(mx.abs(with_one - one[0]).max()) for with_one in one[1:-1])
    found["unloaded"] = float(mx.abs(other[-1] - other[0]).max())
    return found
