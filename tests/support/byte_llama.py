"""A small random model that reads and writes bytes, for what doesn't depend on what a model says."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
from mlx.utils import tree_flatten

from llama3_mlx import Llama
from llama3_mlx.checkpoint.folder import ModelFolder
from llama3_mlx.distributed.loading import Nodes, lead, load_split_model
from llama3_mlx.loader import ModelParts
from llama3_mlx.model.transformer import LlamaForCausalLM
from llama3_mlx.tokenizer.tokenizer import Ends, Tokenizer

from .transformers_reference import llama3_rope, our_model, reference_model, small_config

END = 256
# Over how many processes, and how, the engine's tests run; see distributed/test_split_engine.py.
NODES, SPLIT = int(os.environ.get("LLAMA3_MLX_TEST_NODES", "1")), os.environ.get("LLAMA3_MLX_TEST_SPLIT", "auto")
# A group of processes holds one model at a time.
SCOPE: Literal["function", "module"] = "module" if NODES == 1 else "function"
_CONFIGS: dict[int, dict[str, Any]] = {}


def byte_model(*, seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """A random float32 model of 320 tokens, the first 256 of them bytes."""
    reference = reference_model(small_config(rope_parameters=llama3_rope(8.0), **changes), seed)
    model = our_model(reference)
    _CONFIGS[id(model)] = {**reference.config.to_dict(), "torch_dtype": "float32"}
    return model


def calm(model: LlamaForCausalLM, share: float = 0.2) -> LlamaForCausalLM:
    """Make a model listen to its last token most of all: what it writes soon repeats itself."""
    for layer in model.model.layers:
        layer.mlp.down_proj.weight = layer.mlp.down_proj.weight * share
        layer.self_attn.o_proj.weight = layer.self_attn.o_proj.weight * share
    return model


def byte_tokenizer(vocab_size: int = 320) -> Tokenizer:
    """Bytes, a token that ends the text, and tokens without text."""
    table = [bytes([i]) for i in range(256)] + [b""] * (vocab_size - 256)
    return Tokenizer(
        lambda text: list(text.encode()),
        table,
        {"<end>": END},
        vocab_size=vocab_size,
        ends=Ends(None, frozenset([END])),
    )


def byte_llama(model: LlamaForCausalLM | None = None, **options: Any) -> Llama:
    """The model as a `Llama`; every position of a text up to 131,072 has a place."""
    limits = {name: options.pop(name) for name in ("memory_bytes", "max_sequences") if name in options}
    model = model or byte_model()
    if NODES > 1:
        model, options["group"] = _split(model)
    parts = ModelParts(folder=Path("nowhere"), model=model, tokenizer=byte_tokenizer(), **options)
    return Llama(parts, **limits)


def _split(model: LlamaForCausalLM) -> tuple[LlamaForCausalLM, Nodes]:
    """Lay the model on processes that this one leads."""
    weights: list[tuple[str, mx.array]] = tree_flatten(model.parameters())  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(_CONFIGS[id(model)]))
        mx.save_safetensors(str(folder / "model.safetensors"), dict(weights), {"format": "mlx"})
        nodes = lead(NODES)
        return load_split_model(ModelFolder(folder), nodes, split=SPLIT, dtype="float32"), nodes
