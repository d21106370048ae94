"""A model's config out of Meta's params.json and the shapes of a shard.

Source: meta-llama/llama-models `models/llama3/args.py` and `models/sku_list.py`; the factor of the 1B's and 3B's
scaling, which params.json doesn't carry: config.json of meta-llama/Llama-3.2-1B and -3B.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, ConfigError
from ...json_types import JsonMapping, JsonObject
from ...model.config import ModelConfig, load_json_object
from ...tokenizer.llama3 import special_tokens

# Every Llama 3 has as many; where there are more shards than heads, each head is stored several times.
_KV_HEADS = 8
_SMALL_DIMS = (2048, 3072)


def read_meta_config(
    file: Path, parts: Mapping[str, tuple[int, ...]], *, n_shards: int, tied: bool, dtype: str
) -> tuple[ModelConfig, int]:
    """Return the config, and how many times each key/value head is stored.

    `parts` are the shapes in one shard by Hugging Face name. Raises CheckpointError where they don't fit params.json.
    """
    params = load_json_object(file)
    missing = [name for name in ("dim", "n_layers", "n_heads", "norm_eps") if params.get(name) is None]
    if missing:
        raise ConfigError(f"{file} lacks {', '.join(missing)}")
    dim, n_heads = _integer(file, params, "dim"), _integer(file, params, "n_heads")
    head_dim = dim // n_heads
    layer = "model.layers.0."
    _check_number_of_shards(file, n_heads * head_dim, parts[f"{layer}self_attn.q_proj.weight"][0], n_shards)
    stored_kv = parts[f"{layer}self_attn.k_proj.weight"][0] * n_shards // head_dim
    n_kv_heads = _kv_heads(params.get("n_kv_heads") or n_heads, stored_kv, n_shards)
    if n_kv_heads < 1 or stored_kv % n_kv_heads:
        raise CheckpointError(f"{file}: {n_kv_heads} key/value heads, but the shards hold {stored_kv}")
    rows, columns = parts["model.embed_tokens.weight"]
    scaled = bool(params.get("use_scaled_rope"))
    tokens = special_tokens()
    ends = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>") if scaled else ("<|end_of_text|>", "<|eot_id|>")
    values: JsonObject = {
        "model_type": "llama",
        "hidden_size": dim,
        "intermediate_size": parts[f"{layer}mlp.gate_proj.weight"][0] * n_shards,
        "num_hidden_layers": params["n_layers"],
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "head_dim": head_dim,
        "vocab_size": rows * n_shards if columns == dim else rows,
        "rms_norm_eps": params["norm_eps"],
        "rope_theta": params.get("rope_theta", 10000.0),
        "rope_scaling": _rope_scaling(params, dim) if scaled else None,
        "max_position_embeddings": 131072 if scaled else 8192,
        "tie_word_embeddings": tied,
        "torch_dtype": dtype,
        "bos_token_id": tokens["<|begin_of_text|>"],
        "eos_token_id": [tokens[text] for text in ends],
    }
    return ModelConfig.from_dict(values), stored_kv // n_kv_heads


def _integer(file: Path, params: JsonMapping, name: str) -> int:
    value = params[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{file}: {name} must be a positive integer, not {value!r}")
    return value


def _check_number_of_shards(file: Path, rows: int, part: int, n_shards: int) -> None:
    if part * n_shards != rows:
        due = math.ceil(rows / max(1, part))
        raise CheckpointError(
            f"{file.parent}: {n_shards} shard{'s' if n_shards > 1 else ''} of {part} query rows don't make the {rows} "
            f"of params.json" + (f": {due} shards are due" if rows % max(1, part) == 0 else ": is it of another model?")
        )


def _kv_heads(named: Any, stored: int, n_shards: int) -> int:
    """Return the number of different key/value heads; 16 shards may speak of 16, which are 8 stored twice each."""
    count = named if isinstance(named, int) and not isinstance(named, bool) else 0
    doubled = n_shards > _KV_HEADS and count == stored == n_shards
    return _KV_HEADS if doubled else count


def _rope_scaling(params: JsonMapping, dim: int) -> JsonObject:
    return {
        "rope_type": "llama3",
        "factor": float(params.get("rope_scaling_factor") or (32 if dim in _SMALL_DIMS else 8)),
        "low_freq_factor": 1.0,
        "high_freq_factor": float(params.get("rope_high_freq_factor") or 4),
        "original_max_position_embeddings": 8192,
    }
