"""Servers as processes of their own, and clients that stream from them, for the server's benchmarks."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

_SCRIPTS = Path(sys.executable).parent
_START_S = 120


@dataclass(frozen=True)
class ServerProcess:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]

    @property
    def memory_bytes(self) -> int:
        """Resident memory; 0 where the system doesn't tell."""
        status = Path(f"/proc/{self.process.pid}/statm")
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.exists() else 0


@contextmanager
def serving(command: Sequence[str], health: str, **environment: str) -> Iterator[ServerProcess]:
    """Run a server's command, to which `--port` is added, until the block ends."""
    port = free_port()
    process = subprocess.Popen(
        [str(_SCRIPTS / command[0]), *command[1:], "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url + health, process)
        yield ServerProcess(url, process)
    finally:
        process.terminate()
        process.wait(60)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with code {process.returncode} before it answered")
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise SystemExit(f"{url} didn't answer within {_START_S} s") from None
        time.sleep(0.1)


@dataclass
class Streamed:
    """What one streamed chat gave: its text, and when each piece came, in seconds after the request."""

    text: str = ""
    times_s: list[float] = field(default_factory=list)
    tokens: int = 0
    cached: int = 0

    @property
    def first_s(self) -> float:
        """Time to the first piece."""
        return self.times_s[0] if self.times_s else float("nan")

    @property
    def gaps_s(self) -> list[float]:
        """Times between pieces."""
        return [b - a for a, b in zip(self.times_s, self.times_s[1:], strict=False)]


async def stream_chat(
    client: httpx.AsyncClient, url: str, messages: Sequence[Any], leave_after: int | None = None, **settings: Any
) -> Streamed:
    """Stream a chat; go away after `leave_after` pieces if that is given."""
    body = {"messages": messages, "stream": True, "stream_options": {"include_usage": True}, **settings}
    result, began = Streamed(), time.perf_counter()
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {(await response.aread()).decode()[:300]}")
        async for chunk in _chunks(response):
            usage = chunk.get("usage")
            if usage:
                result.tokens = usage["completion_tokens"]
                result.cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
            text = chunk["choices"][0]["delta"].get("content") if chunk["choices"] else None
            if text:
                result.text += text
                result.times_s.append(time.perf_counter() - began)
                if leave_after is not None and len(result.times_s) >= leave_after:
                    break
    return result


async def _chunks(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    async for line in response.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise RuntimeError(chunk["error"])
            yield chunk


async def at_once(url: str, dialogs: Sequence[Sequence[Any]], **settings: Any) -> tuple[list[Streamed], float]:
    """Stream all dialogs at once; return the results and the wall time."""
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as client:
        began = time.perf_counter()
        results = await asyncio.gather(*(stream_chat(client, url, dialog, **settings) for dialog in dialogs))
        return list(results), time.perf_counter() - began
