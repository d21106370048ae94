"""Processes that are killed, stopped or interrupted, launchers, nodes that don't fit: an error, and nothing left."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai
import pytest
from safetensors.numpy import load_file, save_file

from llama3_mlx import Llama
from llama3_mlx.adapters.mlx_lm_format import save_adapter
from llama3_mlx.checkpoint.folder import ModelFolder
from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.distributed.channel import Channel
from llama3_mlx.distributed.fingerprint import check_fingerprint, fingerprint
from llama3_mlx.errors import PeerError

from ..adapters.test_adapters import random_adapter
from ..server.test_moderations import guard_folder  # noqa: F401
from ..support.processes import WAIT_S, finished, read_until, running
from ..support.small_chat import save_small_chat
from .test_group import free_port

T = TypeVar("T")
# Far more tokens than are generated before the fault comes.
ENDLESS = ("--max-tokens", "100000", "--temperature", "0", "--no-speculate", "--ignore-eos")

SPLITS = ("tensor", "pipeline")

# What a client gets: the error, or the end of the connection where MLX holds the server's threads.
ENDED = r"rank 1 .* is gone|[Cc]onnection|peer closed"


def start(*arguments: str, **variables: str) -> AbstractContextManager["subprocess.Popen[str]"]:
    """Start a command, which is killed at the end of the block with all that it has started."""
    environment = {**os.environ, "LLAMA3_MLX_NODE_TIMEOUT": "6", **variables}
    command = [sys.executable, "-m", "llama3_mlx", *arguments]
    pipe = subprocess.PIPE
    return running(command, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)


def processes(*columns: str) -> list[list[str]]:
    """Return all processes, by what Linux and macOS both tell."""
    command = ["ps", "-A", *(f"-o{column}=" for column in columns)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=WAIT_S).stdout
    return [line.split(maxsplit=len(columns) - 1) for line in listed.splitlines()]


def followers(leader: int) -> list[int]:
    """The processes that a leader started."""
    rows = processes("pid", "ppid", "args")
    return [int(row[0]) for row in rows if row[1] == str(leader) and row[2:] and "distributed.follower" in row[2]]


def is_gone(pid: int) -> bool:
    """Whether a process ends within ten seconds; one that waits for its parent to look has ended."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if not any(row[0] == str(pid) and not row[1].startswith("Z") for row in processes("pid", "stat")):
            return True
        time.sleep(0.05)
    return False


@contextmanager
def generating(model: Path, split: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Yield a command that is in the middle of an answer over two processes, and its follower."""
    with start("generate", "-m", str(model), "Say 1.", *ENDLESS, "--nodes", "2", "--split", split) as process:
        read_until(process.stdout)
        (follower,) = followers(process.pid)
        yield process, follower


def at_once(check: Callable[[T], None], cases: Sequence[T]) -> None:
    """Check up to four cases at the same time: most of it is waiting. Each must end by itself: threads can't be."""
    with ThreadPoolExecutor(min(4, len(cases))) as pool:
        list(pool.map(check, cases))


def test_a_follower_that_dies_or_stalls_ends_the_answer(small_chat: Path) -> None:
    faults = ((signal.SIGKILL, "has ended"), (signal.SIGSTOP, "silent for 6 s"))
    cases = [(split, *fault) for split in SPLITS for fault in faults]
    at_once(lambda case: check_fault(small_chat, *case), cases)


def check_fault(small_chat: Path, split: str, number: signal.Signals, reason: str) -> None:
    # MLX's ring now and then leaves a thread waiting with Python's lock held: then the sentinel ends the process.
    with generating(small_chat, split) as (process, follower):
        os.kill(follower, number)
        _, told = finished(process)
        assert is_gone(follower)
    assert "Traceback" not in told
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    if process.returncode == -signal.SIGKILL:
        assert "stood still for 12 s" in line
    else:
        assert process.returncode == 2
        assert line.startswith("error: rank 1 (127.0.0.1:")
        assert reason in line


def test_ranks_killed_at_any_moment_leave_nothing(small_chat: Path) -> None:
    at_once(lambda seed: check_kill(small_chat, seed), range(int(os.environ.get("LLAMA3_MLX_TEST_KILLS", "2"))))


def check_kill(small_chat: Path, seed: int) -> None:
    # From the start of the follower's process on: meeting, joining, loading, reading the prompt, generating.
    rng = random.Random(seed)
    command = ("generate", "-m", str(small_chat), "Say 1.", "--nodes", "2", "--split", rng.choice(SPLITS))
    with start(*command, *ENDLESS) as process:
        end = time.monotonic() + 30
        while not (found := followers(process.pid)) and time.monotonic() < end:
            time.sleep(0.01)
        (follower,) = found
        time.sleep(rng.uniform(0, 2.5))
        killed = rng.choice([process.pid, follower])
        os.kill(killed, signal.SIGKILL)
        _, told = finished(process)
        assert is_gone(follower)
    assert "Traceback" not in told
    if killed == follower:
        assert re.search(
            r"^error: (rank 1 .* (is gone|didn't come)|this process stood still|MLX's ring group)", told, re.M
        )
        assert process.returncode in (2, -signal.SIGKILL)


def test_the_end_of_the_leader_ends_all(small_chat: Path) -> None:
    at_once(lambda number: check_end(small_chat, number), [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])


def check_end(small_chat: Path, number: signal.Signals) -> None:
    with generating(small_chat, "tensor") as (process, follower):
        process.send_signal(number)
        finished(process)
        assert is_gone(follower)
    assert process.returncode == (130 if number == signal.SIGINT else -number)


def test_a_rank_that_never_comes_is_named(small_chat: Path, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.json"
    hosts.write_text('[["127.0.0.1:1"], ["10.255.255.1:5001"]]')
    coordinator = f"127.0.0.1:{free_port()}"
    variables = {"MLX_HOSTFILE": str(hosts), "LLAMA3_MLX_COORDINATOR": coordinator, "LLAMA3_MLX_NODE_TIMEOUT": "1"}
    for rank, told in (
        ("0", "rank 1 (10.255.255.1:5001) didn't come within 1 s"),
        ("1", "rank 0 isn't there: 127.0.0.1 port"),
    ):
        with start("generate", "-m", str(small_chat), "Hi", MLX_RANK=rank, **variables) as process:
            assert told in finished(process)[1]
            assert process.returncode == 2


def test_another_version_is_refused_by_name(small_chat: Path, tmp_path: Path) -> None:
    port, hosts = free_port(), tmp_path / "hosts.json"
    hosts.write_text('[["127.0.0.1:1"], ["10.0.0.2:5000"]]')
    variables = {"MLX_HOSTFILE": str(hosts), "LLAMA3_MLX_COORDINATOR": f"127.0.0.1:{port}", "MLX_RANK": "0"}
    with start("generate", "-m", str(small_chat), "Hi", LLAMA3_MLX_NODE_TIMEOUT="20", **variables) as leader:
        channel = Channel(connected(port), 20, lambda _: None)
        channel.send({"rank": 1, "version": "0.0.1", "mlx": "0", "host": "other"})
        _, told = finished(leader)
        channel.close()
    assert "error: rank 1 (10.0.0.2:5000) on other has llama3-mlx 0.0.1, rank 0 has" in told
    assert leader.returncode == 2


def connected(port: int) -> socket.socket:
    end = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def test_another_model_is_refused_by_what_differs(small_chat: Path, tmp_path: Path) -> None:
    ours = fingerprint(ModelFolder(small_chat))
    other = shutil.copytree(small_chat, tmp_path / "other")
    check_fingerprint(ModelFolder(other), ours)
    with (other / "model.safetensors").open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(size - 8)
        file.write(b"\1")
    with pytest.raises(PeerError, match="has other weights than on rank 0"):
        check_fingerprint(ModelFolder(other), ours)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rope_theta": 1.0}))
    with pytest.raises(PeerError, match=r"has other config\.json and weights"):
        check_fingerprint(ModelFolder(other), ours)
    with pytest.raises(PeerError, match="isn't on this machine"):
        check_fingerprint(ModelFolder(tmp_path / "none"), ours)


@pytest.fixture
def mild_guard(guard_folder: Path, tmp_path: Path) -> Path:  # noqa: F811
    """The random guard, which calls everything unsafe, with its head negated: it calls everything safe."""
    folder = shutil.copytree(guard_folder, tmp_path / "guard")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] *= -1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_server_over_two_processes_serves_and_ends_when_one_is_gone(
    small_chat: Path, mild_guard: Path, tmp_path: Path
) -> None:
    """A guard judges what is asked, on rank 0 alone."""
    port, other, adapter = free_port(), save_small_chat(tmp_path / "other", num_hidden_layers=1), tmp_path / "one"
    model = load_model(small_chat, join=False)
    save_adapter(adapter, random_adapter(model, 1), model.config)
    models = ("-m", str(small_chat), "-m", str(other), "--adapter", f"one={adapter}")
    guard = ("--guard", str(mild_guard), "--guard-on", "input")
    arguments = (*models, *guard, "--nodes", "2", "--port", str(port))
    messages: list[Any] = [{"role": "user", "content": "Say 1."}]
    with Llama.load(small_chat) as one, Llama.load(other) as two:
        one.load_adapter("one", adapter)
        expected = {
            name: llama.chat(messages, max_tokens=4, temperature=0, adapter=name.partition(":")[2] or None).text
            for name, llama in (("small", one), ("other", two), ("small:one", one))
        }
    with start("serve", *arguments) as process:
        assert "llama3-mlx serves small, other" in read_until(process.stderr, "serves")
        assert process.stderr is not None
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        (follower,) = followers(process.pid)
        base = f"http://127.0.0.1:{port}/v1"
        with openai.OpenAI(base_url=base, api_key="none", max_retries=0, timeout=WAIT_S) as client:
            assert {model.id for model in client.models.list()} >= set(expected)
            for name, text in expected.items():
                answer = client.chat.completions.create(model=name, messages=messages, max_tokens=4, temperature=0)
                assert answer.choices[0].message.content == text, name
            judged = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_S).text
            assert 'guard_checks_total{on="input",verdict="safe"} 3' in judged
            stream = client.chat.completions.create(
                model="small", messages=messages, temperature=0, stream=True, extra_body={"ignore_eos": True}
            )
            with pytest.raises((openai.APIError, httpx.TransportError), match=ENDED):
                for number, _ in enumerate(stream):
                    if number == 3:
                        os.kill(follower, signal.SIGKILL)
        process.wait(30)
        drain.join(30)
        assert is_gone(follower)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
