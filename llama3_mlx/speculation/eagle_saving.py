"""Writes a draft head in the form of vllm-project/speculators, which vLLM and this package read.

Source of the form: vllm-project/speculators `models/eagle3/config.py` and `config.py` (`SpeculatorsConfig`).
"""

from dataclasses import replace
from pathlib import Path
from typing import cast

import mlx.core as mx
from mlx.utils import tree_flatten

from ..dtypes import DTYPES, dtype_name
from ..files import save_json, save_whole
from .eagle_head import EagleHead

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_head(folder: Path, head: EagleHead, dtype: mx.Dtype) -> None:
    """Write an unquantized head in that dtype, each file atomically; the folder is made if need be."""
    config = replace(head.config, layer=replace(head.config.layer, dtype=dtype_name(dtype)))
    arrays = {
        name: array.astype(dtype) if array.dtype in DTYPES.values() else array
        for name, array in cast(list[tuple[str, mx.array]], tree_flatten(head.parameters()))
    }
    arrays |= map_arrays(head)
    mx.eval(list(arrays.values()))
    folder.mkdir(parents=True, exist_ok=True)
    save_whole(folder / WEIGHTS, lambda path: mx.save_safetensors(str(path), arrays, {"format": "mlx"}))
    save_json(folder / CONFIG, config.to_dict())


def map_arrays(head: EagleHead) -> dict[str, mx.array]:
    """Return `d2t`, how far each token's id in the target lies beyond its own, and `t2d`, which of the target's it has.

    Both are empty where the vocabulary isn't reduced.
    """
    if head.token_ids is None:
        return {}
    has = mx.zeros(head.config.layer.vocab_size, mx.bool_)
    has[head.token_ids] = True
    return {"d2t": head.token_ids.astype(mx.int64) - mx.arange(head.config.draft_vocab_size), "t2d": has}
