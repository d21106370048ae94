"""A random Llama 3 of full size on the disk, for measurements that don't depend on what it says."""

import json
from pathlib import Path

import numpy as np

from llama3_mlx.convert.plan import make_plan
from llama3_mlx.convert.targets.layout import safetensors_index, safetensors_layout
from llama3_mlx.model.config import ModelConfig
from llama3_mlx.model.quantization import Quantization, Scheme
from tests.support.llama3_tokenizer import save_llama3_tokenizer

SHAPES = {
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
    "3b": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "70b": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
}
_TIED = ("1b", "3b")
_TILE = 1 << 22


def make_config(size: str) -> dict[str, object]:
    """Return the config.json of a Llama 3 of that size."""
    return {
        "model_type": "llama",
        **SHAPES[size],
        "num_key_value_heads": 8,
        "head_dim": 64 if size == "1b" else 128,
        "vocab_size": 128256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": size in _TIED,
        "torch_dtype": "bfloat16",
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128009],
    }


def make_model(folder: Path, size: str, bits: int | None = None) -> Path:
    """Write config, tokenizer and weights in shards of 5 GB, unless they are there.

    The weights are bfloat16, or packed in `bits`.
    """
    if (folder / "model.safetensors.index.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    values = make_config(size)
    plan = make_plan(ModelConfig.from_dict(values), Quantization(Scheme(bits)) if bits else None, "BF16")
    if plan.quantization is not None:
        values["quantization"] = plan.quantization.to_dict()
    normal = np.random.default_rng(0).normal(0, 0.02, _TILE).astype(np.float32)
    tile = normal.view(np.uint16)[1::2].tobytes()
    for name, tensors in plan.shards.items():
        layout = safetensors_layout(tensors, "pt")
        with (folder / name).open("wb") as file:
            file.write(layout.header)
            left = layout.size - len(layout.header)
            while left:
                left -= file.write(tile[: min(left, len(tile))])
    (folder / "config.json").write_text(json.dumps(values))
    index = safetensors_index(plan.shards)
    save_llama3_tokenizer(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
