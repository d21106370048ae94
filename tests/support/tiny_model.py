"""A tiny random Llama as a model folder, for what doesn't depend on what a model says."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors.numpy import save_file

from llama3_mlx.model.config import ModelConfig
from llama3_mlx.model.parameters import expected_tensors

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 128256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "torch_dtype": "float16",
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
}


def tiny_weights(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights of a config, norms near one."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(config["torch_dtype"]) if config["torch_dtype"] != "bfloat16" else np.dtype("float32")
    shapes = expected_tensors(ModelConfig.from_dict(config))
    return {
        name: (rng.normal(0, 0.05, shape) + (1.0 if len(shape) == 1 else 0.0)).astype(dtype)
        for name, shape in shapes.items()
    }


def save_tiny(folder: Path, *, weights: dict[str, np.ndarray] | None = None, **changes: Any) -> Path:
    """Write config.json and model.safetensors; `changes` go into the config."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, **changes}
    (folder / "config.json").write_text(json.dumps(config))
    weights = tiny_weights(config) if weights is None else weights
    if config["torch_dtype"] == "bfloat16":
        arrays = {name: mx.array(w).astype(mx.bfloat16) for name, w in weights.items()}
        mx.save_safetensors(str(folder / "model.safetensors"), arrays, metadata={"format": "pt"})
    else:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
