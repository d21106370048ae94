"""Every split of tiny models compared with one process: what a host (see node_host.py) finds."""

import gc
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llama3_mlx  # noqa: F401  # isort: skip
import mlx.core as mx

from llama3_mlx.checkpoint.folder import ModelFolder
from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.distributed.loading import Nodes, lead, load_split_model, release
from llama3_mlx.distributed.planning import bytes_per_token, messages_per_chunk, messages_per_token, share_bytes
from llama3_mlx.distributed.split_model import LeaderLlama
from llama3_mlx.errors import RequestError
from llama3_mlx.kv_cache import CacheOptions
from llama3_mlx.model.transformer import LlamaForCausalLM

from ..support.tiny_model import CONFIG, save_tiny, tiny_weights

LAYERS = {2: 3, 3: 4, 4: 4}
PROMPT = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]


@dataclass(frozen=True)
class Case:
    """One model, split one way."""

    split: str
    heads: int
    kv_heads: int
    bits: int | None = None
    cache: CacheOptions = field(default_factory=CacheOptions)
    changes: tuple[tuple[str, Any], ...] = ()
    split_head: bool = False

    def __str__(self) -> str:
        changes = "".join(f" {name}={value}" for name, value in self.changes)
        changes += " split head" * self.split_head
        return f"{self.split} {self.heads}/{self.kv_heads} {self.bits or 32} bits {self.cache.label}{changes}"


def cases(size: int) -> Iterator[Case]:
    """Yield what is compared over `size` processes; heads in the ratios 1, 3, 4 and 8 where they divide."""
    by_size = {
        2: [(4, 4), (6, 2), (8, 2), (8, 1), (16, 2), (9, 3), (6, 3), (12, 3)],
        3: [(3, 3), (9, 3), (12, 3)],
        4: [(4, 4), (12, 4), (16, 4), (8, 1)],
    }
    for heads, kv_heads in by_size[size]:
        for bits in (None, 4):
            yield Case("tensor", heads, kv_heads, bits)
    for tied in (True, False):
        for bits in (None, 4):
            yield Case("tensor", size, size, bits, changes=(("tie_word_embeddings", tied),), split_head=True)
    yield Case("pipeline", 6, 2)
    yield Case("pipeline", 6, 2, 4)
    biased = (("attention_bias", True), ("mlp_bias", True), ("tie_word_embeddings", False))
    yield Case("auto", size, size, changes=biased)
    dynamic = {"rope_type": "dynamic", "factor": 2.0}
    yield Case("pipeline", 2, 1, changes=(("rope_scaling", dynamic), ("max_position_embeddings", 8)))
    yield Case("auto", 2 * size, size, cache=CacheOptions(kv_bits=8))
    yield Case("pipeline", 2, 1, cache=CacheOptions(window=16))


def save(folder: Path, case: Case, layers: int) -> Path:
    """Write the model of a case."""
    changes = {
        "vocab_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": case.heads,
        "num_key_value_heads": case.kv_heads,
        "head_dim": 32,
        "intermediate_size": 192,
        "torch_dtype": "float32",
        "eos_token_id": 1,
        "bos_token_id": 0,
        **dict(case.changes),
    }
    if case.bits is None:
        return save_tiny(folder, **changes)
    weights: dict[str, Any] = {}
    for name, array in tiny_weights({**CONFIG, **changes}).items():
        if array.ndim == 1:
            weights[name] = array
            continue
        packed, scales, biases = mx.quantize(mx.array(array), 32, case.bits)
        path = name.removesuffix("weight")
        arrays = zip(("weight", "scales", "biases"), (packed, scales, biases), strict=True)
        weights |= {f"{path}{part}": array for part, array in arrays}
    folder.mkdir(exist_ok=True)
    config = {**CONFIG, **changes, "quantization": {"group_size": 32, "bits": case.bits}}
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(
        str(folder / "model.safetensors"), {name: mx.array(array) for name, array in weights.items()}, {"format": "mlx"}
    )
    return folder


def steps(model: LlamaForCausalLM, options: CacheOptions, *, short: bool) -> list[mx.array]:
    """Return logits without a cache, of prompts of two lengths, and of a batch that they join and leave.

    In short: without a cache and of a step after a prompt alone.
    """
    tokens = mx.array([PROMPT])
    found = [] if model.config.rope_scaling.rope_type == "dynamic" else [model(tokens)]
    if short:
        cache = model.make_cache(options)
        model.fill(tokens, cache)
        return [*found, model(mx.array([[3]]), cache)[:, 0]]
    batch = model.make_cache(options)
    for length in (10, 6, 3):
        cache = model.make_cache(options)
        found.append(model(tokens[:, :length], cache)[:, -1])
        batch.append(cache)
        if model.config.rope_scaling.rope_type == "dynamic":
            break
    n = len(batch.lengths)
    found.append(model(mx.array([[3], [4], [5]][:n]), batch)[:, 0])
    if n > 1:
        batch.pop(0)
        batch.trim(5, 0) if options.window is None else None
        kept = batch.take(1)
        found.append(model(mx.array([[3, 4], [4, 5]]), batch)[:, -1])
        found.append(model(mx.array([[6] * 9]), kept)[:, -1])
        found.append(model(mx.array([[7] * 9]), kept.copy())[:, -1])
    return found


def compare(size: int, folder: str) -> dict[str, Any]:
    """Return what differs between the splits of each case and the unsplit model, and what was counted."""
    nodes = lead(size)
    results: dict[str, Any] = {}
    for number, case in enumerate(cases(size)):
        # Every sum of three or four processes takes long where there are fewer cores.
        layers = LAYERS[size] if case.split != "tensor" else 2 if size == 2 else 1
        path = save(Path(folder) / str(number), case, layers)
        model = load_split_model(
            ModelFolder(path), nodes, split=case.split, dtype="float32", split_head=case.split_head
        )
        # What is done with KV caches has nothing to do with the heads that are in them.
        short = case.split == "tensor" and number > 1
        ours = steps(model, case.cache, short=short)
        theirs = steps(load_model(path, dtype="float32"), case.cache, short=short)
        differences = [float(mx.abs(one - other).max()) for one, other in zip(ours, theirs, strict=True)]
        share = nodes.shares[0]
        before = counted(model, nodes)
        mx.eval(model(mx.array([[1]])))
        between, cache = counted(model, nodes), model.make_cache()
        model.fill(mx.array([[1, 2, 3]]), cache)
        mx.eval(cache.arrays)
        after = counted(model, nodes)
        once, chunk = messages_per_token(model.config, share), messages_per_chunk(model.config, share)
        position = model.config.hidden_size * 4
        own = model.parameters()
        if case.split_head and model.config.tie_word_embeddings:
            # Rows of the embedding.
            del own["lm_head"]
        results[str(case)] = {
            "difference": max(differences),
            "logits": ours[0][0].tolist() if size == 2 and case.bits is None and case.split == "tensor" else None,
            "folder": str(path),
            "limit": 1e-5 if case.bits is None and case.cache.kv_bits is None else 1e-3,
            "messages and bytes of a token": [minus(between, before), [once, bytes_per_token(model.config, share, 4)]],
            "messages and bytes of a chunk": [minus(after, between), [chunk, chunk * 3 * position]],
            "weights": [
                sum(array.nbytes for array in arrays(own)),
                share_bytes(model.config, share, 4),
            ],
        }
        del model, own
        gc.collect()
        release(nodes)
    results["refused"] = refusal(nodes, Path(folder) / "0")
    return results


def counted(model: LeaderLlama, nodes: Nodes) -> list[int]:
    """Return the messages and bytes so far: all processes take part in one sum, and each sends by itself."""
    nodes.leader.tell({"do": "count"})
    counts = [model.exchange, *(SimpleNamespace(**count) for count in nodes.leader.answers().values())]
    totals = [[count.messages, count.sent_bytes] for count in counts]
    if nodes.shares[0].split == "tensor":
        assert all(total == totals[0] for total in totals)
        return totals[0]
    return [sum(column) for column in zip(*totals, strict=True)]


def minus(later: list[int], earlier: list[int]) -> list[int]:
    """Return the differences."""
    return [a - b for a, b in zip(later, earlier, strict=True)]


def ahead(size: int, folder: str) -> dict[str, Any]:
    """Return how far logits are from one process's where rank 0 ran chunks of the prompt while the others stood."""
    nodes = lead(size)
    assert nodes.local is not None
    model = load_split_model(ModelFolder(Path(folder)), nodes, split="pipeline", dtype="float32")
    cache, own = model.make_cache(), load_model(Path(folder), dtype="float32")
    tokens = mx.array([list(range(1, 61))])
    expected = own(tokens)[:, -1]
    for process in nodes.local.processes:
        process.send_signal(signal.SIGSTOP)
    try:
        for start in range(0, 40, 20):
            model.fill(tokens[:, start : start + 20], cache)
            mx.eval(cache.arrays)
    finally:
        for process in nodes.local.processes:
            process.send_signal(signal.SIGCONT)
    found = model(tokens[:, 40:], cache)[:, -1]
    result = {"difference": float(mx.abs(found - expected).max()), "length": cache.lengths[0]}
    del model, cache
    gc.collect()
    release(nodes)
    return result


def arrays(tree: Any) -> Iterator[mx.array]:
    """Yield the arrays of a tree."""
    for value in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(value, mx.array):
            yield value
        else:
            yield from arrays(value)


def refusal(nodes: Any, folder: Path) -> str:
    """Return what is said of heads that can't be shared out."""
    config = json.loads((folder / "config.json").read_text())
    other = folder.with_name("refused")
    other.mkdir()
    (other / "config.json").write_text(json.dumps({**config, "num_attention_heads": 1, "num_key_value_heads": 1}))
    try:
        load_split_model(ModelFolder(other), nodes, split="tensor", dtype="float32")
    except RequestError as error:
        return str(error)
    return ""
