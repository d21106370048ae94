"""Starts the followers of a group on this machine, and ends them."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .membership import COORDINATOR, Membership

_STOP_S = 3.0


class LocalNodes:
    """The followers' processes; this one is rank 0."""

    def __init__(self, size: int) -> None:
        """Start `size - 1` followers, which wait for their leader."""
        ports = _free_ports(size + 1)
        addresses = tuple(f"127.0.0.1:{port}" for port in ports[:size])
        self.member = Membership(0, size, "ring", ("127.0.0.1", ports[size]), addresses)
        self._folder = tempfile.TemporaryDirectory(prefix="llama3-mlx-nodes-")
        self._hostfile = Path(self._folder.name) / "hosts.json"
        self._hostfile.write_text(json.dumps([[address] for address in addresses]))
        self.processes = [self._start(rank) for rank in range(1, size)]

    @contextmanager
    def environment(self) -> Iterator[None]:
        """Say to MLX in this process who it is, while it joins; later child processes must not take it for theirs."""
        ours = self._variables(0)
        before = {name: os.environ.get(name) for name in ours}
        os.environ.update(ours)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value

    def stop(self) -> None:
        """End all of them, also one that is stopped or stuck."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
        for process in self.processes:
            process.wait(_STOP_S)
        self._folder.cleanup()

    def _variables(self, rank: int) -> dict[str, str]:
        host, port = self.member.coordinator
        return {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(self._hostfile), COORDINATOR: f"{host}:{port}"}

    def _start(self, rank: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", f"{__package__}.follower"]
        variables = {**os.environ, **self._variables(rank)}
        return subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
