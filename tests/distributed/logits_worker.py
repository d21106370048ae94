"""Leads some processes and compares every split of tiny models with one process; prints what differs as JSON.

Run as `python -m tests.distributed.logits_worker SIZE FOLDER`; the reference is the unsplit model.
"""

import gc
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama3_mlx  # noqa: F401  # isort: skip
import mlx.core as mx

from llama3_mlx.checkpoint.folder import ModelFolder
from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.distributed.loading import lead, load_split_model, release
from llama3_mlx.distributed.planning import messages_per_token, share_bytes
from llama3_mlx.distributed.shares import Split
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

    def __str__(self) -> str:
        changes = "".join(f" {name}={value}" for name, value in self.changes)
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


def steps(model: LlamaForCausalLM, options: CacheOptions) -> list[mx.array]:
    """Return logits without a cache, of prompts of two lengths, and of a batch that they join and leave."""
    tokens = mx.array([PROMPT])
    found = [] if model.config.rope_scaling.rope_type == "dynamic" else [model(tokens)]
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


def main() -> None:
    size, folder = int(sys.argv[1]), Path(sys.argv[2])
    nodes = lead(size)
    results: dict[str, Any] = {}
    for number, case in enumerate(cases(size)):
        path = save(folder / str(number), case, 2 if case.split == "tensor" else LAYERS[size])
        model = load_split_model(ModelFolder(path), nodes, split=case.split, dtype="float32")
        ours, theirs = steps(model, case.cache), steps(load_model(path, dtype="float32"), case.cache)
        differences = [float(mx.abs(one - other).max()) for one, other in zip(ours, theirs, strict=True)]
        before = model.exchange.messages, model.exchange.sent_bytes
        mx.eval(model(mx.array([[1]])))
        messages, sent = model.exchange.messages - before[0], model.exchange.sent_bytes - before[1]
        split: Split = "tensor" if messages > size else "pipeline"
        expected = messages_per_token(model.config, split, size) // (size if split == "pipeline" else 1)
        results[str(case)] = {
            "difference": max(differences),
            "logits": ours[0][0].tolist() if size == 2 and case.bits is None and case.split == "tensor" else None,
            "folder": str(path),
            "limit": 1e-5 if case.bits is None and case.cache.kv_bits is None else 1e-3,
            "messages": [messages, expected],
            "bytes": [sent, expected * model.config.hidden_size * 4],
            "weights": [
                sum(array.nbytes for array in arrays(model.parameters())),
                share_bytes(model.config, nodes.shares[0], 4),
            ],
        }
        del model
        gc.collect()
        release(nodes)
    results["refused"] = refusal(nodes, folder / "0")
    json.dump(results, sys.stdout)


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


if __name__ == "__main__":
    main()
