"""What a process holds and does of a split model: memory while it loads, operations of a step."""

import gc
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from llama3_mlx.bench.counting import count_work
from llama3_mlx.checkpoint.folder import load_config
from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.distributed.exchange import make_exchange
from llama3_mlx.distributed.planning import share_bytes
from llama3_mlx.distributed.share_loading import load_share
from llama3_mlx.distributed.shares import Share, pipeline_shares, tensor_shares
from llama3_mlx.model.transformer import LlamaForCausalLM

from ..support.tiny_model import save_tiny

N_LAYERS, WIDTH = 8, 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape: dict[str, Any] = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": N_LAYERS,
        "vocab_size": 64,
    }
    heads: dict[str, Any] = {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": WIDTH // 8,
        "torch_dtype": "float32",
    }
    return save_tiny(tmp_path_factory.mktemp("shares"), **shape, **heads, eos_token_id=1, bos_token_id=0)


def shares(folder: Path, split: str) -> list[Share]:
    config = load_config(folder)
    return tensor_shares(config, 2) if split == "tensor" else pipeline_shares(config, [5.0, 3.0])


@pytest.mark.parametrize("split", ["tensor", "pipeline"])
def test_loading_takes_the_share_and_one_layer_at_most(folder: Path, split: str) -> None:
    config = load_config(folder)
    layer = 4 * (3 * 4 * WIDTH * WIDTH + 3 * WIDTH * WIDTH)
    for share in shares(folder, split):
        gc.collect()
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        model = load_share(folder, share, "float32")
        held, peak = mx.get_active_memory() - before, mx.get_peak_memory() - before
        assert held == pytest.approx(share_bytes(config, share, 4), rel=0.01)
        assert peak < held + 1.5 * layer
        del model


def operations(model: LlamaForCausalLM, share: Share) -> int:
    """Count a step of a share's layers; in a group of one, sums and messages are no operations."""
    exchange = make_exchange(share, mx.distributed.init())
    rope, nothing = model.rope.for_length(1), [None] * len(model.model.layers)

    def step(h: mx.array) -> mx.array:
        return exchange.run(model.model.layers, h, rope, "causal", nothing)

    count = count_work(step, mx.zeros((1, 1, WIDTH))).operations
    assert exchange.messages == 2 * N_LAYERS + 1
    return count


def test_a_step_has_as_many_operations_on_each_node_as_in_one_process(folder: Path) -> None:
    whole = tensor_shares(load_config(folder), 1)[0]
    expected = operations(load_model(folder, dtype="float32"), whole)
    assert expected > 10 * N_LAYERS
    for share in shares(folder, "tensor"):
        assert operations(load_share(folder, share, "float32"), share) == expected
