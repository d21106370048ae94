"""Several models under one budget: loaded on demand, the least recently used taken out, adapters by name."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from llama3_mlx import Llama
from llama3_mlx.checkpoint.folder import load_config
from llama3_mlx.device import compute_dtype_name
from llama3_mlx.model.memory_estimate import estimate

from ..support.server_fixtures import Running, running_server


def loaded(running: Running) -> list[str]:
    return [model["name"] for model in running.get("/status").json()["models"]]


def use(running: Running, model: str, **more: Any) -> int:
    body = {"model": model, "prompt": "a", "max_tokens": 1, **more}
    return running.post("/v1/completions", body).status_code


@pytest.fixture
def needed_gb(tiny_folder: Path) -> float:
    """What one tiny model is counted with."""
    return estimate(load_config(tiny_folder), compute_dtype_name("float16")).memory_for(4096) / 1e9


def test_models_are_loaded_when_asked_for_and_the_least_recently_used_goes(tiny_folder: Path, needed_gb: float) -> None:
    models = dict.fromkeys(("a", "b", "c"), tiny_folder)
    with running_server(models, memory_gb=2.5 * needed_gb) as running:
        assert loaded(running) == []
        assert [use(running, name) for name in ("a", "b", "a")] == [200] * 3
        assert loaded(running) == ["a", "b"]
        assert use(running, "c") == 200
        assert loaded(running) == ["a", "c"]


def test_a_model_that_can_never_fit_is_refused_before_it_is_loaded(tiny_folder: Path, needed_gb: float) -> None:
    with running_server({"a": tiny_folder}, memory_gb=needed_gb / 2) as running:
        reply = running.post("/v1/completions", {"prompt": "a"})
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "insufficient_memory"
        assert "--memory-gb" in reply.json()["error"]["message"]


def test_models_in_memory_share_the_budget(tiny_folder: Path, needed_gb: float) -> None:
    """What one engine may take with weights, keys, values and kept prefixes leaves the others their part."""
    with running_server({"a": tiny_folder, "b": tiny_folder}, memory_gb=4 * needed_gb) as running:
        models = running.app.state.server.models

        def rooms() -> list[int]:
            return [place.loaded.llama.engine.settings.memory_bytes for place in models.slots.values()]

        assert use(running, "a") == 200
        (alone,) = rooms()
        assert use(running, "b") == 200
        assert max(rooms()) < 0.55 * alone
        assert use(running, "b", keep_alive=0) == 200
        deadline = time.monotonic() + 60
        while len(models.slots) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        while rooms() != [alone]:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_model_that_comes_while_another_is_loaded_gets_its_part(
    tiny_folder: Path, needed_gb: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, both, load = threading.Event(), threading.Barrier(2), Llama.load

    def held_up(*arguments: Any, **settings: Any) -> Llama:
        began.set()
        both.wait(30)
        return load(*arguments, **settings)

    monkeypatch.setattr(Llama, "load", held_up)
    with running_server({"a": tiny_folder, "b": tiny_folder}, memory_gb=4 * needed_gb) as running:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(use, running, "a")
            assert began.wait(30)
            assert use(running, "b") == 200
            assert first.result() == 200
        slots = running.app.state.server.models.slots.values()
        rooms = [place.loaded.llama.engine.settings.memory_bytes for place in slots]
        assert len(rooms) == 2
        assert rooms[0] == pytest.approx(rooms[1], rel=0.01)


def test_requests_at_once_load_a_model_once(tiny_folder: Path) -> None:
    with running_server({"a": tiny_folder}) as running, ThreadPoolExecutor(6) as pool:
        assert set(pool.map(lambda _: use(running, "a"), range(6))) == {200}
        assert 'model_loads_total{model="a"} 1' in running.get("/metrics").text


def test_keep_alive_decides_how_long_an_unused_model_stays(tiny_folder: Path) -> None:
    with running_server({"a": tiny_folder, "b": tiny_folder}, keep_alive_s=0.0) as running:
        assert use(running, "b", keep_alive=-1) == 200
        assert use(running, "a") == 200
        deadline = time.monotonic() + 60
        while loaded(running) != ["b"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_damaged_model_is_an_error_each_time_and_the_others_go_on(tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).symlink_to(tiny_folder / name)
    whole = (tiny_folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with running_server({"good": tiny_folder, "bad": tmp_path}) as running:
        for _ in range(2):
            reply = running.post("/v1/completions", {"model": "bad", "prompt": "a"})
            assert reply.status_code == 500
            assert "model.safetensors" in reply.json()["error"]["message"]
        assert use(running, "good") == 200


def save_random_adapter(folder: Path, hidden_size: int, seed: int) -> Path:
    """A LoRA adapter as mlx-lm writes it, on the queries of the tiny model's first layer."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    shapes = {"lora_a": (hidden_size, 2), "lora_b": (2, 128)}
    name = "model.layers.0.self_attn.q_proj"
    weights = {f"{name}.{part}": rng.normal(0, 1, shape).astype(np.float32) for part, shape in shapes.items()}
    save_file(weights, folder / "adapters.safetensors")
    parameters = {"rank": 2, "scale": 8.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_an_adapter_is_named_after_its_model_and_one_of_another_shape_is_not_offered(
    tiny_folder: Path, tmp_path: Path
) -> None:
    adapters = {
        "one": save_random_adapter(tmp_path / "one", 64, 1),
        "two": save_random_adapter(tmp_path / "two", 64, 2),
        "wide": save_random_adapter(tmp_path / "wide", 128, 3),
    }
    body = {"prompt": [128000, 5, 17, 300], "max_tokens": 8, "temperature": 0}
    with running_server({"tiny": tiny_folder}, adapters) as running:
        listed = [model["id"] for model in running.get("/v1/models").json()["data"]]
        assert listed == ["tiny", "tiny:one", "tiny:two"]
        texts = {
            name: running.post("/v1/completions", {**body, "model": name}).json()["choices"][0]["text"]
            for name in listed
        }
        assert running.post("/v1/completions", {**body, "model": "tiny:wide"}).status_code == 404
        for name, words in (("one", "behind its model: tiny:one"), ("wide", "an adapter that fits no model here")):
            reply = running.post("/v1/completions", {**body, "model": name})
            assert reply.status_code == 404
            assert words in reply.json()["error"]["message"]
    prompt: list[int] = body["prompt"]  # type: ignore[assignment]
    for name, adapter in (("tiny", None), ("tiny:one", adapters["one"]), ("tiny:two", adapters["two"])):
        alone = Llama.load(tiny_folder, adapter=adapter).generate(prompt, max_tokens=8, temperature=0)
        assert texts[name] == alone.text
    assert len(set(texts.values())) == 3
