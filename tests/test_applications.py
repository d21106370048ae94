"""What an application asks beside a model: what is here, what it needs, downloads with cancel, no network, memory."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import cast

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

import llama3_mlx
from llama3_mlx import Llama, Llama3MLXError, available_models, errors, watch_memory

from .support.fake_hub import running_hub


def run(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAMA3_MLX_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "home"


def test_models_on_this_machine_are_listed_with_what_they_need(home: Path, small_chat: Path) -> None:
    assert available_models() == []
    shutil.copytree(small_chat, home / "models" / "mine")
    (model,) = available_models()
    assert (model.name, model.folder, model.adapters) == ("mine", home / "models" / "mine", ())
    assert model.size_bytes == sum(path.stat().st_size for path in small_chat.iterdir())
    needs = Llama.estimate("mine", dtype="float32")
    with Llama.load("mine", dtype="float32", disk_cache=False) as llama:
        loaded = llama.compute(
            lambda model: sum(
                array.nbytes
                for array in cast(dict[str, mx.array], tree_flatten(model.parameters(), destination={})).values()
            )
        )
    assert needs.weight_bytes == loaded
    assert needs.at_context(10) == needs.weight_bytes + 10 * needs.kv_bytes_per_token
    assert 0 < needs.longest_context <= needs.context == model.context


def test_a_download_is_told_ended_and_gone_on_with(
    small_chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, whose Hub is local."""
    program = """
import sys, threading
import llama3_mlx
told, cancel = [], threading.Event()
def progress(event):
    told.append(event)
    cancel.set()
print(llama3_mlx.download("org/small", progress=progress, cancel=cancel))
print(told[0].stage, told[0].name, told[0].total > 0)
again = threading.Event()
folder = llama3_mlx.download("org/small", cancel=again)
print((folder / "config.json").exists(), again.is_set(), llama3_mlx.Llama.estimate("org/small").weight_bytes > 0)
llama3_mlx.go_offline()
print([model.name for model in llama3_mlx.available_models()])
try:
    llama3_mlx.download("org/other")
except llama3_mlx.HubError as error:
    print(error.title, "|", "HF_HUB_OFFLINE" in error.cause, "|", error.remedy)
"""
    with running_hub() as (hub, address):
        hub.repositories["org/small"] = small_chat
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setenv("LLAMA3_MLX_HOME", str(tmp_path / "home"))
        result = run(program)
    assert result.stdout.splitlines() == [
        "None",
        "downloading org/small True",
        "True False True",
        "['org/small']",
        "The download failed | True | Check the network and the model's name, then try again.",
    ], result.stderr


def test_no_network_is_touched_by_a_model_on_this_machine(small_chat: Path) -> None:
    program = f"""
import socket, sys
def refused(*_, **__):
    raise AssertionError("a connection was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refused
import llama3_mlx
llama3_mlx.go_offline()
with llama3_mlx.Llama.load({str(small_chat)!r}, disk_cache=False) as llama:
    print(len(llama.chat([{{"role": "user", "content": "Hi"}}], max_tokens=2).token_ids))
"""
    result = run(program)
    assert result.stdout == "2\n", result.stderr


def test_a_change_of_memory_pressure_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    levels, told, seen = iter([1, 2, 2, 4, 1]), [], threading.Event()
    monkeypatch.setattr("llama3_mlx.applications.memory_pressure", lambda: next(levels, 1))

    def callback(level: str) -> None:
        told.append(level)
        if level == "normal":
            seen.set()

    end = watch_memory(callback, every_s=0.001)
    assert seen.wait(30)
    end()
    assert told == ["warning", "critical", "normal"]
    assert not any(thread.name == "llama3-mlx memory" for thread in threading.enumerate())


def test_every_error_can_be_shown_to_a_user() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Llama3MLXError)]
    assert len(kinds) > 15
    for kind in kinds:
        assert "title" in vars(kind), kind
        assert not kind.title.endswith("."), kind
        assert kind.remedy.endswith("."), kind
    assert errors.ConfigError("no Llama").cause == "no Llama"
    assert {"download", "go_offline"} <= set(llama3_mlx.__all__)
