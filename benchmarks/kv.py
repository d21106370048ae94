"""Quantized keys and values: divergence from plain ones and bytes per token, against mlx-lm's, on SmolLM2 in float32.

The model reads the documents of benchmarks/prompts.py; KL is that of its next-token distributions with quantized from
those with plain keys and values, in nats per token. The two programs' plain distributions are the same.
"""

import tempfile
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from benchmarks.prompts import DOCUMENTS
from benchmarks.tables import parser, publish
from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.kv_cache import CacheOptions
from llama3_mlx.model.transformer import LlamaForCausalLM
from llama3_mlx.tokenizer.loading import load_tokenizer
from tests.support.smollm2 import save_smollm2

_CHUNK = 64


def logprobs(model: Any, tokens: list[int], cache: Any) -> mx.array:
    """Return log-probabilities (L, V), the text given in chunks, each of which reads what was kept of those before."""
    rows = []
    for start in range(0, len(tokens), _CHUNK):
        logits = model(mx.array([tokens[start : start + _CHUNK]]), cache=cache)[0].astype(mx.float32)
        rows.append(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        mx.eval(rows)
    return mx.concatenate(rows)


def divergence(plain: mx.array, other: mx.array) -> float:
    """Return the mean KL of rows of log-probabilities (L, V)."""
    return cast(float, (mx.exp(plain) * (plain - other)).sum(axis=-1).mean().item())


def ours(model: LlamaForCausalLM, texts: list[list[int]], bits: int) -> tuple[float, float]:
    """Return KL and bytes per token of this package's cache."""
    options = CacheOptions(kv_bits=bits)
    found = [
        divergence(logprobs(model, text, model.make_cache()), logprobs(model, text, model.make_cache(options)))
        for text in texts
    ]
    config = model.config
    per_token = options.bytes_per_token(config.num_hidden_layers, config.num_key_value_heads, config.head_dim, 4)
    return sum(found) / len(found), per_token


def theirs(model: Any, texts: list[list[int]], bits: int) -> tuple[float, float]:
    """Return KL and bytes per token of mlx-lm's cache, in its default groups of 64."""
    from mlx_lm.models.cache import QuantizedKVCache, make_prompt_cache

    found, per_token = [], 0.0
    for text in texts:
        kept = [QuantizedKVCache(group_size=64, bits=bits) for _ in model.layers]
        found.append(divergence(logprobs(model, text, make_prompt_cache(model)), logprobs(model, text, kept)))
        arrays = [array for layer in kept for part in (layer.keys, layer.values) for array in part]
        per_token = sum(array.nbytes / array.shape[-2] for array in arrays)
    return sum(found) / len(found), per_token


def main() -> None:
    args = parser(__doc__).parse_args()
    import mlx_lm.utils

    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = save_smollm2(Path(name))
        tokenizer = load_tokenizer(folder)
        texts = [tokenizer.encode(text, bos=True) for text in DOCUMENTS.values()]
        model = load_model(folder, dtype="float32")
        peer, _ = mlx_lm.utils.load_model(folder)
        peer.set_dtype(mx.float32)
        for bits in (8, 4):
            (kl, size), (their_kl, their_size) = ours(model, texts, bits), theirs(peer, texts, bits)
            rows.append([f"KL, {bits} bits", f"{kl:.6f}", f"{their_kl:.6f}", f"{kl / their_kl:.2f}"])
            rows.append(
                [f"bytes per token, {bits} bits", f"{size:,.0f}", f"{their_size:,.0f}", f"{size / their_size:.2f}"]
            )
    note = (
        f"SmolLM2-135M in float32 over {sum(map(len, texts))} tokens of text, prefilled in chunks of {_CHUNK}; KL "
        "divergence in nats per token from the unquantized cache. Ours quantizes 4 bits in groups of 32, "
        "mlx-lm in groups of 64."
    )
    publish("Quantized KV cache", ["", "llama3-mlx", "mlx-lm", "ratio"], rows, note, args.write)


if __name__ == "__main__":
    main()
