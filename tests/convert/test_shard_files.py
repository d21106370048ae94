"""The one writer of checkpoints: what safetensors reads back, the index, what stays in memory."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
from safetensors import safe_open

from llama3_mlx.convert.targets.shard_files import write_tensors


def test_tensors_are_written_as_shards_that_safetensors_reads(tmp_path: Path) -> None:
    arrays = {
        "model.layers.0.up_proj.weight": mx.arange(64, dtype=mx.uint32).reshape(8, 8),
        "model.layers.0.up_proj.scales": mx.arange(16).reshape(8, 2).astype(mx.bfloat16),
        "model.norm.weight": mx.arange(64).astype(mx.float16) / 3,
        "lm_head.weight": mx.arange(512).reshape(8, 64).astype(mx.float32) / 7,
    }
    tensors = list(arrays.items())
    assert write_tensors(tmp_path, tensors, shard_bytes=600) == sum(array.nbytes for array in arrays.values())
    assert tensors == []
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": sum(array.nbytes for array in arrays.values())}
    # The parts of one module stay together.
    assert index["weight_map"] == {
        "lm_head.weight": "model-00002-of-00002.safetensors",
        **dict.fromkeys([*arrays][:3], "model-00001-of-00002.safetensors"),
    }
    for name, array in arrays.items():
        with safe_open(tmp_path / index["weight_map"][name], "pt") as file:
            read = file.get_tensor(name)
            assert str(read.dtype).removeprefix("torch.") == str(array.dtype).removeprefix("mlx.core.")
            np.testing.assert_array_equal(read.double().numpy(), np.array(array.astype(mx.float32)))
            assert file.metadata() == {"format": "mlx"}
