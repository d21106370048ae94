"""A small random model that reads and writes bytes, for what doesn't depend on what a model says."""

from pathlib import Path
from typing import Any

from llama3_mlx import Llama
from llama3_mlx.loader import ModelParts
from llama3_mlx.model.transformer import LlamaForCausalLM
from llama3_mlx.tokenizer.tokenizer import Ends, Tokenizer

from .transformers_reference import llama3_rope, our_model, reference_model, small_config

END = 256


def byte_model(*, seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """A random float32 model of 320 tokens, the first 256 of them bytes."""
    return our_model(reference_model(small_config(rope_parameters=llama3_rope(8.0), **changes), seed))


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
    parts = ModelParts(folder=Path("nowhere"), model=model or byte_model(), tokenizer=byte_tokenizer(), **options)
    return Llama(parts, **limits)
