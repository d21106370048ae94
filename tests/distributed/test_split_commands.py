"""The commands under a launcher and with --nodes: only rank 0 prints, and what it prints is what one process prints."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .test_faults import ENDLESS, is_gone, start
from .test_group import free_port

GREEDY = ("--raw", "Hello", "--max-tokens", "8", "--temperature", "0")


@contextmanager
def launched(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a command by mlx.launch, whose processes have a standard input that never ends."""
    launcher = Path(sys.executable).parent / "mlx.launch"
    command = [str(launcher), "-n", "2", "--backend", "ring", "--starting-port", str(free_port()), "--"]
    variables = {**os.environ, "LLAMA3_MLX_COORDINATOR": f"127.0.0.1:{free_port()}"}
    pipe, (reading, writing) = subprocess.PIPE, os.pipe()
    whole = [*command, sys.executable, "-m", "llama3_mlx", *arguments]
    try:
        with subprocess.Popen(whole, env=variables, stdin=reading, stdout=pipe, stderr=pipe, text=True) as process:
            yield process
    finally:
        os.close(reading)
        os.close(writing)


def printed(*arguments: str, **variables: str) -> str:
    process = start(*arguments, LLAMA3_MLX_NODE_TIMEOUT="30", **variables)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output


def test_under_mlx_launch_rank_0_alone_prints(small_chat: Path) -> None:
    command = ("generate", "-m", str(small_chat), *GREEDY)
    with launched(*command) as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output == printed(*command)


def test_the_end_of_mlx_launch_ends_all(small_chat: Path) -> None:
    with launched("generate", "-m", str(small_chat), "Say 1.", *ENDLESS) as process:
        assert process.stdout is not None
        process.stdout.read(5)
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        rows = [tuple(map(int, line.split())) for line in listed.splitlines()]
        ranks = [pid for pid, parent in rows if parent == process.pid]
        assert len(ranks) == 2
        process.terminate()
        assert all(is_gone(rank) for rank in ranks)


def test_a_command_of_one_process_is_refused_under_a_launcher(small_chat: Path, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([["127.0.0.1:1"], ["127.0.0.1:2"]]))
    for rank in ("0", "1"):
        process = start("run", str(small_chat), "Hi", MLX_RANK=rank, MLX_HOSTFILE=str(hosts))
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output) == (2, "")
        assert (
            errors.startswith("error: run runs in one process: under a launcher, take") if rank == "0" else not errors
        )


def test_perplexity_and_bench_run_over_nodes(small_chat: Path) -> None:
    command = ("perplexity", str(small_chat), "--length", "64", "--max-windows", "4", "--json")
    alone, split = (json.loads(printed(*command, *more)) for more in ((), ("--nodes", "2", "--node-split", "pipeline")))
    assert split["perplexity"] == pytest.approx(alone["perplexity"], rel=1e-5)
    assert split["tokens"] == alone["tokens"]
    short = ("--lengths", "8", "--tokens", "2", "--batch", "0", "--rounds", "1", "--json", "-")
    found: dict[str, Any] = json.loads(printed("bench", str(small_chat), *short, "--nodes", "2", "--split", "tensor"))
    assert (found["settings"]["nodes"], found["settings"]["split"]) == (2, "tensor")
    for refused in (
        ("bench", str(small_chat), "--suite"),
        ("perplexity", str(small_chat), "--against", "x"),
        ("serve", "-m", str(small_chat), "--adapter", "a=x"),
    ):
        process = start(*refused, "--nodes", "2")
        assert "leave out --" in process.communicate(timeout=60)[1]
        assert process.returncode == 2
