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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from llama3_mlx.checkpoint.folder import ModelFolder
from llama3_mlx.distributed.channel import Channel
from llama3_mlx.distributed.fingerprint import check_fingerprint, fingerprint
from llama3_mlx.distributed.leader import Leader
from llama3_mlx.distributed.membership import Membership
from llama3_mlx.errors import PeerError

from .test_group import free_port

# Far more tokens than are generated before the fault comes.
ENDLESS = ("--max-tokens", "100000", "--temperature", "0", "--no-speculate", "--ignore-eos")

SPLITS = ("tensor", "pipeline")

# What a client gets: the error, or the end of the connection where MLX holds the server's threads.
ENDED = r"rank 1 .* is gone|[Cc]onnection|peer closed"


def start(*arguments: str, **variables: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "LLAMA3_MLX_NODE_TIMEOUT": "3", **variables}
    command = [sys.executable, "-m", "llama3_mlx", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


def followers(leader: int) -> list[int]:
    """The processes that a leader started, by what Linux and macOS both tell."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [int(row[0]) for row in rows if row[1] == str(leader) and row[2:] and "distributed.follower" in row[2]]


def is_gone(pid: int) -> bool:
    """Whether a process ends within ten seconds; one that waits for its parent to look has ended."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
        if not state.stdout.strip() or state.stdout.startswith("Z"):
            return True
        time.sleep(0.05)
    return False


@contextmanager
def generating(model: Path, split: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Yield a command that is in the middle of an answer over two processes, and its follower."""
    with start("generate", "-m", str(model), "Say 1.", *ENDLESS, "--nodes", "2", "--split", split) as process:
        try:
            assert process.stdout is not None
            process.stdout.read(5)
            (follower,) = followers(process.pid)
            yield process, follower
        finally:
            process.kill()


@pytest.mark.parametrize("split", ["tensor", "pipeline"])
@pytest.mark.parametrize(("number", "reason"), [(signal.SIGKILL, "has ended"), (signal.SIGSTOP, "silent for 3 s")])
def test_a_follower_that_dies_or_stalls_ends_the_answer(
    small_chat: Path, split: str, number: signal.Signals, reason: str
) -> None:
    # MLX's ring now and then leaves a thread waiting with Python's lock held: then the sentinel ends the process.
    with generating(small_chat, split) as (process, follower):
        os.kill(follower, number)
        _, told = process.communicate(timeout=60)
    assert "Traceback" not in told
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    if process.returncode == -signal.SIGKILL:
        assert "stood still for 6 s" in line
    else:
        assert process.returncode == 2
        assert line.startswith("error: rank 1 (127.0.0.1:")
        assert reason in line
    assert is_gone(follower)


@pytest.mark.parametrize("seed", range(int(os.environ.get("LLAMA3_MLX_TEST_KILLS", "2"))))
def test_a_rank_killed_at_any_moment_leaves_nothing(small_chat: Path, seed: int) -> None:
    # From the start of the follower's process on: meeting, joining, loading, reading the prompt, generating.
    rng = random.Random(seed)
    command = ("generate", "-m", str(small_chat), "Say 1.", "--nodes", "2", "--split", rng.choice(SPLITS))
    with start(*command, *ENDLESS) as process:
        try:
            end = time.monotonic() + 30
            while not (found := followers(process.pid)) and time.monotonic() < end:
                time.sleep(0.01)
            (follower,) = found
            time.sleep(rng.uniform(0, 2.5))
            killed = rng.choice([process.pid, follower])
            os.kill(killed, signal.SIGKILL)
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()
    assert "Traceback" not in told
    if killed == follower:
        assert re.search(
            r"^error: (rank 1 .* (is gone|didn't come)|this process stood still|MLX's ring group)", told, re.M
        )
        assert process.returncode in (2, -signal.SIGKILL)
    assert is_gone(follower)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_leader_ends_all(small_chat: Path, number: signal.Signals) -> None:
    with generating(small_chat, "tensor") as (process, follower):
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert is_gone(follower)


def test_a_rank_that_never_comes_is_named(small_chat: Path, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.json"
    hosts.write_text('[["127.0.0.1:1"], ["10.255.255.1:5001"]]')
    coordinator = f"127.0.0.1:{free_port()}"
    variables = {"MLX_HOSTFILE": str(hosts), "LLAMA3_MLX_COORDINATOR": coordinator, "LLAMA3_MLX_NODE_TIMEOUT": "1"}
    leader = start("generate", "-m", str(small_chat), "Hi", MLX_RANK="0", **variables)
    assert "rank 1 (10.255.255.1:5001) didn't come within 1 s" in leader.communicate(timeout=60)[1]
    assert leader.returncode == 2
    follower = start("generate", "-m", str(small_chat), "Hi", MLX_RANK="1", **variables)
    assert "rank 0 isn't there: 127.0.0.1 port" in follower.communicate(timeout=60)[1]
    assert follower.returncode == 2


def test_another_version_is_refused_by_name() -> None:
    port = free_port()
    member = Membership(0, 2, "ring", ("127.0.0.1", port), ("127.0.0.1:1", "10.0.0.2:5000"))

    def come() -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                connection = socket.create_connection(("127.0.0.1", port))
                break
            except OSError:
                time.sleep(0.02)
        ended = threading.Event()
        channel = Channel(connection, 20, lambda _: ended.set())
        channel.send({"rank": 1, "version": "0.0.1", "mlx": "0", "host": "other"})
        ended.wait(20)

    coming = threading.Thread(target=come)
    coming.start()
    with pytest.raises(PeerError, match=r"rank 1 \(10\.0\.0\.2:5000\) on other has llama3-mlx 0\.0\.1, rank 0 has"):
        Leader(member, 20)
    coming.join()


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


def test_a_server_over_two_processes_serves_and_ends_when_one_is_gone(small_chat: Path) -> None:
    port = free_port()
    arguments = ("-m", str(small_chat), "--nodes", "2", "--port", str(port))
    with start("serve", *arguments, LLAMA3_MLX_NODE_TIMEOUT="3") as process:
        assert process.stderr is not None
        assert "llama3-mlx serves small" in process.stderr.readline()
        drain = threading.Thread(target=process.stderr.read)
        drain.start()
        (follower,) = followers(process.pid)
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        messages: list[Any] = [{"role": "user", "content": "Say 1."}]
        client.chat.completions.create(model="small", messages=messages, max_tokens=4)
        stream = client.chat.completions.create(
            model="small", messages=messages, temperature=0, stream=True, extra_body={"ignore_eos": True}
        )
        with pytest.raises((openai.APIError, httpx.TransportError), match=ENDED):
            for number, _ in enumerate(stream):
                if number == 3:
                    os.kill(follower, signal.SIGKILL)
        client.close()
        process.wait(30)
        drain.join()
    assert is_gone(follower)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
