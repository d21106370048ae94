"""A small model with channels of unlike sizes and a tokenizer of bytes, for tests of quantized quality."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.convert.opening import open_source
from llama3_mlx.convert.sources.source import Source
from llama3_mlx.model.config import ModelConfig

from .tiny_model import CONFIG, save_tiny, tiny_weights

SMALL: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "head_dim": 32,
    "vocab_size": 320,
    "bos_token_id": None,
    "eos_token_id": None,
    "torch_dtype": "float32",
}


def save_uneven(folder: Path, **changes: Any) -> Path:
    """Write the model and its tokenizer."""
    config = {**CONFIG, **SMALL, **changes}
    rng = np.random.default_rng(1)
    weights = tiny_weights(config, seed=2)
    for name, weight in weights.items():
        if name.endswith("norm.weight"):
            # Some channels carry much more than others, as in trained models.
            weights[name] = np.exp(rng.normal(-1, 1, weight.shape)).astype(weight.dtype)
        elif weight.ndim == 2 and "layers" in name:
            weights[name] = (weight * np.exp(rng.normal(0, 0.7, weight.shape[0]))[:, None]).astype(weight.dtype)
        elif weight.ndim == 2:
            weights[name] = weight * 4
    save_tiny(folder, weights=weights, **{**SMALL, **changes})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


def opened(folder: Path) -> Source:
    """Open a folder as a source."""
    return open_source(folder)


def random_windows(config: ModelConfig, count: int, length: int = 32, seed: int = 0) -> list[list[int]]:
    """Windows of random tokens, of the letters that the tests' calibration text is made of."""
    drawn = np.random.default_rng(seed).integers(64, 80, (count, length))
    return [[int(token) for token in row] for row in drawn]


def logits(folder: Path, windows: list[list[int]]) -> np.ndarray:
    """Logits (N, L, V) of the model that is loaded from a folder, float64."""
    model = load_model(folder, dtype="float32", join=False)
    return np.array(model(mx.array(windows))).astype(np.float64)


def divergence(source: np.ndarray, other: np.ndarray) -> float:
    """Mean KL divergence in nats of all but each window's last position."""
    shifted = (x[:, :-1] - x[:, :-1].max(-1, keepdims=True) for x in (source, other))
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in shifted)
    return float((np.exp(p) * (p - q)).sum(-1).mean())
