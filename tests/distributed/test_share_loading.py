"""What a process holds and does of a split model: memory while it loads, operations of a step."""

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import pytest

from llama3_mlx.bench.counting import count_work
from llama3_mlx.checkpoint.folder import load_config
from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.distributed.exchange import PipelineExchange, make_exchange
from llama3_mlx.distributed.planning import share_bytes
from llama3_mlx.distributed.share_loading import load_share
from llama3_mlx.distributed.shares import Share, length, pipeline_shares, tensor_shares
from llama3_mlx.model.transformer import LlamaForCausalLM

from ..support.tiny_model import save_tiny

N_LAYERS, WIDTH, VOCABULARY = 8, 256, 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape: dict[str, Any] = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": N_LAYERS,
        "vocab_size": VOCABULARY,
    }
    heads: dict[str, Any] = {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": WIDTH // 8,
        "torch_dtype": "float32",
    }
    return save_tiny(tmp_path_factory.mktemp("shares"), **shape, **heads, eos_token_id=1, bos_token_id=0)


@dataclass(frozen=True)
class Stage:
    """What a process of a pipeline knows of its group."""

    number: int
    count: int

    def rank(self) -> int:
        return self.number

    def size(self) -> int:
        return self.count


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
    exchange = make_exchange(share, mx.distributed.init(backend="ring"))
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


def test_a_split_head_launches_what_a_whole_one_does_and_reads_its_rows_alone(folder: Path) -> None:
    whole, h = load_model(folder, dtype="float32"), mx.zeros((1, WIDTH))
    expected = count_work(whole.head, h)
    assert expected.bytes_read == VOCABULARY * WIDTH * 4
    for share in tensor_shares(load_config(folder), 2, split_head=True):
        exchange, head = make_exchange(share, mx.distributed.init(backend="ring")), load_share(folder, share, "float32")
        work = count_work(lambda h, exchange=exchange, head=head: exchange.logits(head["lm_head"], h), h)
        assert work.launches == expected.launches
        assert work.bytes_read == expected.bytes_read / 2
        assert exchange.messages == 2


def test_the_steps_of_all_stages_have_the_operations_of_one_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of a layer has as many, and a stage sends one message."""
    model, h = load_model(folder, dtype="float32"), mx.zeros((1, 1, WIDTH))
    rope = model.rope.for_length(1)

    def layers(h: mx.array) -> mx.array:
        for layer in model.model.layers:
            h = layer(h, rope, "causal", None)
        return h

    expected = count_work(layers, h)
    link: list[mx.array] = []

    def send(x: mx.array, *_: object, **__: object) -> mx.array:
        link.append(x)
        return x

    # What one process sends comes back to it; a later one gets what the step gets.
    monkeypatch.setattr(mx.distributed, "send", send)
    monkeypatch.setattr(mx.distributed, "recv", lambda *_, **__: link[-1])
    monkeypatch.setattr(mx, "async_eval", lambda *_: None)
    found = []
    for share in shares(folder, "pipeline"):
        exchange = PipelineExchange(cast(Any, Stage(share.rank, share.size)), share.layers)
        own, nothing = load_share(folder, share, "float32").model.layers, [None] * length(share.layers)

        def step(
            h: mx.array, exchange: PipelineExchange = exchange, own: Any = own, nothing: list[None] = nothing
        ) -> mx.array:
            link.append(h)
            return exchange.run(own, h, rope, "causal", nothing)

        found.append(count_work(step, h))
        assert exchange.messages == 1
    for counted, share in zip(found, shares(folder, "pipeline"), strict=True):
        part = length(share.layers) / N_LAYERS
        for figure in ("operations", "launches", "bytes_read"):
            assert getattr(counted, figure) == part * getattr(expected, figure), figure
    assert len({work.operations for work in found}) == 2
