"""Adapters over several processes: the logits and texts are those of one process, whatever the adapter trains.

That one process is right is tested against mlx-lm and PEFT in tests/adapters.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

from llama3_mlx.adapters.adapter import Adapter, LowRank
from llama3_mlx.adapters.mlx_lm_format import save_adapter
from llama3_mlx.checkpoint.folder import ModelFolder
from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.distributed.exchange import make_exchange
from llama3_mlx.distributed.loading import Nodes
from llama3_mlx.distributed.mirrored_cache import Mirror
from llama3_mlx.distributed.share_loading import load_share
from llama3_mlx.distributed.shares import tensor_shares
from llama3_mlx.distributed.split_adapters import FollowerAdapters, LeaderAdapters
from llama3_mlx.distributed.split_model import LeaderLlama
from llama3_mlx.errors import AdapterError, RequestError
from llama3_mlx.finetune.layers.targets import BLOCK_LINEARS

from ..adapters.test_adapters import random_adapter
from ..support.small_chat import save_small_chat
from .conftest import Ask

SPLITS = ("tensor", "tensor, head", "pipeline")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with biases and a head of its own."""
    shape: dict[str, Any] = {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}
    return save_small_chat(tmp_path_factory.mktemp("model") / "small", **shape, num_hidden_layers=3)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, model: Path, small_chat: Path) -> dict[str, str]:
    """Folders of adapters by what they train; `tied` is for the model whose head is tied."""
    loaded, tied = load_model(model, join=False), load_model(small_chat, join=False)
    made = {
        "one": random_adapter(loaded, 1, (*BLOCK_LINEARS, "embed_tokens", "lm_head")),
        "two": random_adapter(loaded, 2, ("layers.2.self_attn.k_proj", "layers.0.mlp.down_proj")),
        "dora": dora(loaded, 3),
        "full": full(loaded, 4),
        "tied": random_adapter(tied, 5, (*BLOCK_LINEARS, "embed_tokens")),
    }
    folder = tmp_path_factory.mktemp("adapters")
    for name, adapter in made.items():
        save_adapter(folder / name, adapter, (tied if name == "tied" else loaded).config)
    return {name: str(folder / name) for name in made}


def dora(model: Any, seed: int) -> Adapter:
    modules, rng = dict(model.named_modules()), np.random.default_rng(seed)
    parts = {}
    for path, part in random_adapter(model, seed).parts.items():
        norm = mx.linalg.norm(modules[path].weight, axis=1)
        factors = mx.array(rng.uniform(0.7, 1.4, norm.size).astype(np.float32))
        parts[path] = LowRank(part.a, part.b, part.scale, norm * factors)
    return Adapter(parts)


def full(model: Any, seed: int) -> Adapter:
    """An adapter with fully trained modules of every kind of cut, and low-rank terms beside them."""
    rng = np.random.default_rng(seed)
    modules = dict(model.named_modules())
    names = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj", "input_layernorm")
    tensors = {}
    for path in (*(f"model.layers.1.{name}" for name in names), "model.norm", "lm_head"):
        for key, array in modules[path].parameters().items():
            noise = rng.normal(0, 0.1, array.shape).astype(np.float32)
            tensors[f"{path}.{key}"] = array + mx.array(noise)
    return Adapter(random_adapter(model, seed, ("up_proj", "v_proj")).parts, tensors)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    ("names", "mixture"),
    [(["one", "two"], {"one": 0.5, "two": -2.0}), (["dora"], {}), (["full"], {}), (["tied"], {"tied": 0.3})],
)
def test_adapters_do_what_they_do_in_one_process(
    split: str, names: list[str], mixture: dict[str, float], model: Path, small_chat: Path,
    adapters: dict[str, str], ask: Ask,
) -> None:  # fmt: skip
    chosen = {name: adapters[name] for name in names}
    folder = str(small_chat if names == ["tied"] else model)
    found = ask(2, "adapters_worker", "compare", split=split, folder=folder, adapters=chosen, mixture=mixture)
    assert found["difference"] < 1e-4
    assert found["effect"] > 0.01
    assert found["unloaded"] < 1e-5
    assert found["texts 1"] == found["texts 2"]
    assert found["names"] == names


def test_a_machine_without_the_adapter_refuses_it(model: Path, adapters: dict[str, str], tmp_path: Path) -> None:
    share = tensor_shares(ModelFolder(model).config, 2)[1]
    follower = FollowerAdapters(load_share(model, share, "float32"), share, ModelFolder(model))
    request = {"name": "one", "folder": str(tmp_path / "none"), "digest": ""}
    assert "isn't on this machine" in follower.obey(request)["refused"]
    assert "another adapter than on rank 0" in follower.obey({**request, "folder": adapters["one"]})["refused"]
    assert not follower.names


def test_an_adapter_that_one_machine_refuses_is_loaded_nowhere(model: Path, adapters: dict[str, str]) -> None:
    told: list[dict[str, Any]] = []
    refusing = {1: {}, 2: {"refused": "there is none"}}
    leader = SimpleNamespace(tell=told.append, answers=lambda: refusing, name=lambda rank: f"rank {rank}")
    share = tensor_shares(ModelFolder(model).config, 2)[0]
    loaded, whole = load_share(model, share, "float32"), ModelFolder(model).config
    end = LeaderLlama(loaded, whole, make_exchange(share, mx.distributed.init(backend="ring")), Mirror(lambda _: None))
    held = LeaderAdapters(end, cast(Nodes, SimpleNamespace(leader=leader, shares=[share], folder=ModelFolder(model))))
    with pytest.raises(AdapterError, match="rank 2: there is none"):
        held.load("one", adapters["one"])
    assert [(request["name"], "folder" in request) for request in told] == [("one", True), ("one", False)]
    assert not held.names
    with pytest.raises(RequestError, match="takes adapters from folders"):
        held.add("one", random_adapter(load_model(model), 1))
