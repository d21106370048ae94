"""Meta's checkpoint out of Hugging Face tensors: the inverse of what the converter does, and torch.save."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .llama3_tokenizer import MODEL_FILE

_NAMES = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}


def meta_name(name: str) -> str:
    """Meta's name of a tensor."""
    top = {"model.embed_tokens.weight": "tok_embeddings.weight", "model.norm.weight": "norm.weight"}
    if not name.startswith("model.layers."):
        return top.get(name, "output.weight")
    _, _, layer, module = name.removesuffix(".weight").split(".", 3)
    return f"layers.{layer}.{_NAMES[module]}.weight"


def meta_shards(
    weights: dict[str, np.ndarray], config: dict[str, Any], n_shards: int, *, kv_copies: int = 1
) -> list[dict[str, torch.Tensor]]:
    """The state dict of each shard: interleaved heads, repeated key/value heads, rows or columns split."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    shards: list[dict[str, torch.Tensor]] = [{} for _ in range(n_shards)]
    for name, weight in weights.items():
        tensor = torch.from_numpy(np.ascontiguousarray(weight))
        if config["torch_dtype"] == "bfloat16":
            tensor = tensor.to(torch.bfloat16)
        for module, n in (("q_proj", heads), ("k_proj", kv_heads)):
            if module in name:
                rows, columns = tensor.shape
                tensor = tensor.view(n, 2, rows // n // 2, columns).transpose(1, 2).reshape(rows, columns)
        if "k_proj" in name or "v_proj" in name:
            by_head = tensor.view(kv_heads, -1, tensor.shape[1])
            tensor = by_head.repeat_interleave(kv_copies, dim=0).reshape(-1, tensor.shape[1])
        if tensor.ndim == 1:
            parts = [tensor] * n_shards
        else:
            parts = list(tensor.chunk(n_shards, dim=1 if "o_proj" in name or "down_proj" in name else 0))
        for shard, part in zip(shards, parts, strict=True):
            shard[meta_name(name)] = part.clone()
    return shards


def save_meta(
    folder: Path, weights: dict[str, np.ndarray], config: dict[str, Any], n_shards: int = 1, *, kv_copies: int = 1
) -> Path:
    """Write consolidated.NN.pth with torch, params.json and Meta's tokenizer.model."""
    folder.mkdir()
    for n, shard in enumerate(meta_shards(weights, config, n_shards, kv_copies=kv_copies)):
        shard["rope.freqs"] = torch.ones(16)
        torch.save(shard, folder / f"consolidated.{n:02d}.pth")
    params = {
        "dim": config["hidden_size"],
        "n_layers": config["num_hidden_layers"],
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"] * kv_copies,
        "vocab_size": config["vocab_size"],
        "multiple_of": 32,
        "ffn_dim_multiplier": 1.3,
        "norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "use_scaled_rope": config["rope_scaling"] is not None,
    }
    (folder / "params.json").write_text(json.dumps(params))
    shutil.copy(MODEL_FILE, folder / "tokenizer.model")
    (folder / "LICENSE").write_text("the license")
    return folder
