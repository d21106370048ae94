"""LoRA adapters as GGUF files, for llama.cpp's --lora and Ollama.

Tensors are `<GGUF name>.weight.lora_a` (r, in) and `.lora_b` (out, r); the strength is `adapter.lora.alpha` over each
tensor's rank. llama.cpp's rotary pairs lie side by side, so the rows of B of queries and keys are reordered as those
of their matrices are. Source: llama.cpp `convert_lora_to_gguf.py`, `src/llama-adapter.cpp`.
"""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import AdapterError
from ..files import save_whole
from ..model.config import ModelConfig
from .adapter import EMBEDDING, Adapter, LowRank

_BLOCK_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def save_gguf_adapter(path: Path, adapter: Adapter, config: ModelConfig, dtype: str = "float16") -> None:
    """Write the adapter as one GGUF file, in float16 or float32; raises AdapterError for what llama.cpp can't apply."""
    assert adapter.scales is None, "llama.cpp's models have no channels but the trained ones"
    if adapter.is_dora:
        raise AdapterError("llama.cpp can't apply DoRA adapters: fuse it into the model instead")
    if adapter.full_tensors or not adapter.parts:
        raise AdapterError(
            "the adapter has fully trained modules, which a GGUF adapter can't hold: fuse it into the model"
        )
    if EMBEDDING in adapter.parts and config.tie_word_embeddings:
        raise AdapterError("llama.cpp applies an adapter of a tied embedding to one of its two uses: fuse it instead")
    save_whole(path, lambda temporary: _write(temporary, adapter, config, np.dtype(dtype)))


def _write(path: Path, adapter: Adapter, config: ModelConfig, dtype: Any) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    alpha = max(part.scale * part.rank for part in adapter.parts.values())
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, part in adapter.parts.items():
        even = part.rescaled(alpha / part.rank)
        for half, array in zip(("lora_a", "lora_b"), _halves(name, even, config), strict=True):
            writer.add_tensor(f"{_gguf_name(name)}.weight.{half}", np.ascontiguousarray(array.astype(dtype)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(path: str) -> str:
    if path == EMBEDDING:
        return "token_embd"
    if path == "lm_head":
        return "output"
    _, _, number, name = path.split(".", 3)
    return f"blk.{number}.{_BLOCK_NAMES[name]}"


def _halves(path: str, part: LowRank, config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    a, b = (np.array(half.astype(mx.float32)) for half in (part.a, part.b))
    if path == EMBEDDING:
        return a, b.T
    n_heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(path.rpartition(".")[2])
    return a.T, b.T if n_heads is None else paired_rows(b.T, n_heads)


def paired_rows(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """Return rows (heads * head_dim, r) with the two of each rotary pair side by side."""
    return rows.reshape(n_heads, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
