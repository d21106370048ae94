"""A model's config out of GGUF metadata. Source: llama.cpp `docs/gguf` and `convert_hf_to_gguf.py` (LlamaModel)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...dtypes import CONFIG_NAMES
from ...errors import CheckpointError
from ...json_types import JsonObject
from ...model.config import ModelConfig
from ...model.rope import RopeScaling, rope_periods
from .file import Field

_FACTORS = (8.0, 32.0)
_TOLERANCE = 1e-3


def read_config(
    field: Field,
    *,
    rope_factors: np.ndarray | None,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    where: Path,
) -> ModelConfig:
    """Return the config that metadata and tensor shapes describe; raises CheckpointError for other architectures."""
    architecture = field("general.architecture")
    if architecture != "llama":
        raise CheckpointError(f"{where} holds a model of architecture {architecture!r}; accepted is 'llama'")
    if field("llama.expert_count"):
        raise CheckpointError(f"{where} holds a mixture of experts, which is not supported")
    names = {
        "hidden_size": "llama.embedding_length",
        "intermediate_size": "llama.feed_forward_length",
        "num_hidden_layers": "llama.block_count",
        "num_attention_heads": "llama.attention.head_count",
        "max_position_embeddings": "llama.context_length",
    }
    values: JsonObject = {name: field(key) for name, key in names.items()}
    missing = [key for name, key in names.items() if values[name] is None]
    if missing:
        raise CheckpointError(f"{where} lacks the metadata {', '.join(missing)}")
    heads, theta = values["num_attention_heads"], float(field("llama.rope.freq_base", 10000.0))
    head_dim = field("llama.attention.key_length") or values["hidden_size"] // heads
    if field("llama.rope.dimension_count", head_dim) != head_dim:
        raise CheckpointError(f"{where} rotates only a part of each head, which is not supported")
    values |= {
        "model_type": "llama",
        "num_key_value_heads": field("llama.attention.head_count_kv") or heads,
        "head_dim": head_dim,
        "vocab_size": _vocab_size(field, shapes),
        # float32 in the file; the shortest decimal is what was meant.
        "rms_norm_eps": float(str(np.float32(field("llama.attention.layer_norm_rms_epsilon", 1e-6)))),
        "rope_theta": theta,
        "rope_scaling": _rope_scaling(field, rope_factors, head_dim, theta, where),
        "tie_word_embeddings": "lm_head.weight" not in shapes,
        "attention_bias": "model.layers.0.self_attn.q_proj.bias" in shapes,
        "mlp_bias": "model.layers.0.mlp.up_proj.bias" in shapes,
        "torch_dtype": CONFIG_NAMES[dtype],
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": _end_tokens(field),
    }
    return ModelConfig.from_dict(values)


def _vocab_size(field: Field, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the rows of the embedding: it may be padded beyond the tokens."""
    embedding = shapes.get("model.embed_tokens.weight")
    return embedding[0] if embedding else field("llama.vocab_size") or len(field("tokenizer.ggml.tokens", []))


def _end_tokens(field: Field) -> list[int]:
    """Return every id that ends a turn: the metadata's, and Llama 3's three where the vocabulary has them."""
    named = (field(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    tokens = field("tokenizer.ggml.tokens", [])
    texts = {"<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"}
    return sorted({token for token in named if token is not None} | {i for i, t in enumerate(tokens) if t in texts})


def _rope_scaling(
    field: Field, factors: np.ndarray | None, head_dim: int, theta: float, where: Path
) -> dict[str, object] | None:
    """Return the scaling entry: linear from the metadata, llama3 from the tensor of factors by pair."""
    if factors is not None and not np.allclose(factors, 1.0):
        return _llama3_scaling(factors.astype(np.float64).reshape(-1), head_dim, theta, where)
    kind = field("llama.rope.scaling.type")
    if kind in (None, "none"):
        return None
    factor = field("llama.rope.scaling.factor")
    if kind != "linear" or not factor:
        raise CheckpointError(f"{where} has rope scaling of type {kind!r}; accepted are none, linear and llama3")
    return {"rope_type": "linear", "factor": float(factor)}


def _llama3_scaling(factors: np.ndarray, head_dim: int, theta: float, where: Path) -> dict[str, object]:
    """Find the llama3 factor whose periods are the unscaled ones times `factors`."""
    plain = np.array(rope_periods(head_dim, theta, RopeScaling()))
    for factor in (*_FACTORS, float(round(factors.max(), 3))):
        scaling = RopeScaling("llama3", factor)
        expected = np.array(rope_periods(head_dim, theta, scaling)) / plain
        if factors.shape == expected.shape and np.allclose(factors, expected, rtol=_TOLERANCE):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_max_position_embeddings,
            }
    raise CheckpointError(f"{where}: rope_freqs.weight isn't Llama 3's scaling by 8 or 32, which is what is supported")
