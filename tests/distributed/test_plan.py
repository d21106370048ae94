"""`plan` and the shares that it shows: against sums over the tensors themselves, and mlx.launch's hostfile."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llama3_mlx.distributed.hostfile import read_hostfile
from llama3_mlx.distributed.planning import Link, Node, best_plan, make_plan, share_bytes
from llama3_mlx.distributed.shares import head_divides, is_even, pipeline_shares, tensor_shares
from llama3_mlx.errors import RequestError
from llama3_mlx.model.config import ModelConfig
from llama3_mlx.model.memory_estimate import estimate
from llama3_mlx.model.quantization import Quantization, Scheme

from ..support.tiny_model import CONFIG

LLAMA_70B: dict[str, Any] = {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
RDMA, ETHERNET = Link(6e9, 10e-6, is_mesh=True), Link(1.1e9, 300e-6)


def config(bits: int | None = None, group_size: int = 64, **changes: Any) -> ModelConfig:
    quantization = None if bits is None else Quantization(Scheme(bits, group_size))
    made = ModelConfig.from_dict({**CONFIG, **changes})
    return ModelConfig(**{**made.__dict__, "quantization": quantization})


def machines(*gigabytes: float) -> list[Node]:
    return [Node(f"m{i}", int(size * 1e9), 8e11) for i, size in enumerate(gigabytes)]


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("split", ["tensor", "tensor, head", "pipeline"])
def test_shares_together_are_the_model(split: str, bits: int | None) -> None:
    whole = config(bits, **LLAMA_70B)
    is_tensor = split != "pipeline"
    shares = tensor_shares(whole, 4, split_head="head" in split) if is_tensor else pipeline_shares(whole, [3, 1, 1, 1])
    total = sum(share_bytes(whole, share, 2) for share in shares)
    # In tensor parallel the norms of the layers are on every machine.
    norms = 3 * 2 * 80 * 8192 * 2 if is_tensor else 0
    assert total == estimate(whole).weight_bytes + norms


def test_layers_are_shared_out_by_memory() -> None:
    shares = pipeline_shares(config(**LLAMA_70B), [3.0, 1.0, 1.0])
    assert [share.layers for share in shares] == [(0, 48), (48, 64), (64, 80)]
    assert [share.layers for share in pipeline_shares(config(), [100.0, 0.0])] == [(0, 1), (1, 2)]
    with pytest.raises(RequestError, match="has 2 layers"):
        pipeline_shares(config(), [1.0] * 3)


def test_heads_that_fit_no_even_split_are_split_unevenly_or_refused_with_what_would_do() -> None:
    nine = config(num_attention_heads=9, num_key_value_heads=3, intermediate_size=144)
    assert [share.heads for share in tensor_shares(nine, 2)] == [(0, 3), (3, 9)]
    assert not is_even(tensor_shares(nine, 2))
    assert is_even(tensor_shares(nine, 3))
    copied = tensor_shares(config(num_attention_heads=8, num_key_value_heads=1), 4)
    assert [share.heads for share in copied] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert {share.kv_heads for share in copied} == {(0, 1)}
    with pytest.raises(RequestError, match=r"over 4 processes .* 3 key/value heads, of 3 .* on 2, 3 or 9 processes"):
        tensor_shares(nine, 4)
    with pytest.raises(RequestError, match="quantization groups of 128"):
        tensor_shares(config(4, 128, num_attention_heads=6, num_key_value_heads=6, intermediate_size=1024), 2)


def test_the_better_way_depends_on_link_and_memory() -> None:
    whole = config(4, **LLAMA_70B)
    fast, _ = best_plan(whole, machines(64, 64), RDMA, 8192, "bfloat16")
    slow, why = best_plan(whole, machines(64, 64), ETHERNET, 8192, "bfloat16")
    assert (fast.split, slow.split) == ("tensor", "pipeline")
    assert "161 messages" in why
    # With RDMA, two messages more are worth a head that both machines read half of: 128,256 rows of 8,192 values.
    assert fast.splits_head
    assert fast.bytes_per_token == (2 * 80 + 2) * 8192 * 2 + 128256 // 2 * 2
    assert not make_plan(whole, machines(64, 64), ETHERNET, "tensor", 8192, "bfloat16").splits_head
    assert not head_divides(whole, 5)
    assert slow.bytes_per_token == 2 * 8192 * 2
    unequal, why = best_plan(whole, machines(48, 16), RDMA, 8192, "bfloat16")
    assert unequal.split == "pipeline"
    assert unequal.fits
    assert "fits" in why
    assert not make_plan(whole, machines(24), RDMA, "pipeline", 8192, "bfloat16").fits


def test_a_hostfile_says_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps([{"ssh": "one", "ips": ["10.0.0.1"], "rdma": [None, "rdma_en5"], "memory_gb": 64}, {}]))
    first, second = read_hostfile(path)
    assert (first.name, first.has_rdma, first.memory_bytes) == ("one", True, 64_000_000_000)
    assert (second.name, second.has_rdma, second.memory_bytes) == ("machine 1", False, None)
    path.write_text('[{"memory_gb": "much"}]')
    with pytest.raises(RequestError, match="memory_gb of entry 0 must be a positive number"):
        read_hostfile(path)


def test_the_command_needs_config_json_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **LLAMA_70B}))
    command = [sys.executable, "-m", "llama3_mlx", "plan", str(tmp_path), "--bits", "4", "--memory-gb", "36"]
    table = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert len(table.splitlines()) == 9
    one = subprocess.run([*command, "--nodes", "3"], capture_output=True, text=True, check=True, timeout=120).stdout
    assert "estimated rate: at most" in one
    assert "not measured" in one
    output = subprocess.run([*command, "--nodes", "2", "--json"], capture_output=True, text=True, check=True).stdout
    plan = json.loads(output)["plans"][0]
    assert plan["fits"]
    assert plan["split"] == "pipeline"
    assert [node["layers"] for node in plan["nodes"]] == [[0, 39], [39, 80]]
