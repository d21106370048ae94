"""The commands under a launcher and with --nodes: only rank 0 prints, and what it prints is what one process prints."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..support.processes import finished, read_until, running
from ..support.small_chat import save_small_chat
from .test_faults import ENDLESS, is_gone, processes, start
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
        with running(whole, env=variables, stdin=reading, stdout=pipe, stderr=pipe) as process:
            yield process
    finally:
        os.close(reading)
        os.close(writing)


def printed(*arguments: str, **variables: str) -> str:
    with start(*arguments, LLAMA3_MLX_NODE_TIMEOUT="30", **variables) as process:
        output, errors = finished(process, 120)
    assert process.returncode == 0, errors
    return output


def test_under_mlx_launch_rank_0_alone_prints(small_chat: Path) -> None:
    command = ("generate", "-m", str(small_chat), *GREEDY)
    with launched(*command) as process:
        alone = printed(*command)
        output, errors = finished(process, 120)
    assert process.returncode == 0, errors
    assert output == alone


def test_the_end_of_mlx_launch_ends_all(small_chat: Path) -> None:
    with launched("generate", "-m", str(small_chat), "Say 1.", *ENDLESS) as process:
        read_until(process.stdout)
        ranks = [int(pid) for pid, parent in processes("pid", "ppid") if parent == str(process.pid)]
        assert len(ranks) == 2
        process.terminate()
        assert all(is_gone(rank) for rank in ranks)


def test_a_command_of_one_process_is_refused_under_a_launcher(small_chat: Path, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([["127.0.0.1:1"], ["127.0.0.1:2"]]))
    for rank in ("0", "1"):
        with start("run", str(small_chat), "Hi", MLX_RANK=rank, MLX_HOSTFILE=str(hosts)) as process:
            output, errors = finished(process)
        assert (process.returncode, output) == (2, "")
        told = errors.startswith("error: run runs in one process: under a launcher, take")
        assert told if rank == "0" else not errors


def test_perplexity_and_bench_run_over_nodes(small_chat: Path, tmp_path: Path) -> None:
    other = save_small_chat(tmp_path / "other", num_hidden_layers=1)
    against = ("--against", str(other))
    command = ("perplexity", str(small_chat), "--length", "64", "--max-windows", "4", "--json", *against)
    with ThreadPoolExecutor(2) as pool:
        ways = ((), ("--nodes", "2", "--node-split", "pipeline"))
        alone, split = pool.map(lambda more: json.loads(printed(*command, *more)), ways)
    assert alone["kl"]["mean"]["value"] > 1e-4
    assert split["kl"]["mean"] == pytest.approx(alone["kl"]["mean"], rel=1e-3)
    for name in ("perplexity", "base_perplexity", "ratio", "same_top"):
        assert split[name] == pytest.approx(alone[name], rel=1e-5), name
    assert split["tokens"] == alone["tokens"]
    short = ("--lengths", "8", "--tokens", "2", "--batch", "0", "--rounds", "1", "--json", "-")
    found: dict[str, Any] = json.loads(printed("bench", str(small_chat), *short, "--nodes", "2", "--split", "tensor"))
    assert (found["settings"]["nodes"], found["settings"]["split"]) == (2, "tensor")
    for flags in (("--suite",), ("--compare", "mlx-lm"), ("--draft", str(small_chat))):
        with start("bench", str(small_chat), *flags, "--nodes", "2") as process:
            _, told = finished(process)
        assert flags[0] in told
        assert "leave out --nodes and the launcher" in told
        assert process.returncode == 2
