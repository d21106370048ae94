"""Groups of processes that tests share: a model is loaded over them and released again, the processes stay."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pytest

from ..support.processes import WAIT_S, kill, read_until
from .node_host import CHECK_S

ROOT = Path(__file__).parents[2]


class Ask(Protocol):
    """Has a function of a module of this folder called where it leads `size` processes; returns what it found."""

    def __call__(self, size: int, module: str, function: str, **arguments: Any) -> Any: ...


@pytest.fixture(scope="session")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    hosts: dict[int, subprocess.Popen[str]] = {}
    # Prefixes are kept on disk by those checks alone that load a model with them.
    kept = {"LLAMA3_MLX_HOME": str(tmp_path_factory.mktemp("home")), "LLAMA3_MLX_CACHE_GB": "1"}

    def start(size: int) -> "subprocess.Popen[str]":
        if size in hosts and hosts[size].poll() is None:
            return hosts[size]
        if size in hosts:
            kill(hosts[size])
        command, pipe = [sys.executable, "-m", f"{__package__}.node_host", str(size)], subprocess.PIPE
        hosts[size] = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **kept}, stdin=pipe, stdout=pipe, text=True, start_new_session=True
        )
        return hosts[size]

    def asked(size: int, module: str, function: str, **arguments: Any) -> Any:
        host = start(size)
        assert host.stdin is not None
        host.stdin.write(json.dumps([f"{__package__}.{module}", function, arguments]) + "\n")
        host.stdin.flush()
        try:
            # The host ends by itself before, and says where it hangs.
            line = read_until(host.stdout, "\n", CHECK_S + WAIT_S)
        except BaseException:
            # Whatever ends this wait: the next test mustn't get this one's answer.
            kill(hosts.pop(size))
            raise
        answer = json.loads(line or '{"error": "the host has ended: see its stderr"}')
        if "error" in answer:
            # A process of the group may be gone.
            kill(hosts.pop(size))
        assert "error" not in answer, answer["error"]
        return answer["found"]

    yield asked
    for host in hosts.values():
        with suppress(subprocess.TimeoutExpired):
            host.communicate(timeout=WAIT_S)
        kill(host)
