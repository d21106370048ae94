"""Many streaming clients at once, some of which go away: the short form of benchmarks/server_soak.py."""

import asyncio
import time
from pathlib import Path

import mlx.core as mx

from benchmarks.server_soak import soak

from ..support.server_fixtures import running_server

CLIENTS = 64


def test_each_of_many_clients_gets_its_own_number_back(tiny_folder: Path) -> None:
    with running_server({"tiny": tiny_folder}, max_running=64, max_queue=256) as running:
        asyncio.run(soak(running.url, CLIENTS, 0.5, digits=6))
        llama = running.app.state.server.models.slots["tiny"].loaded.llama
        llama.release_memory()
        before = mx.get_active_memory()
        tally = asyncio.run(soak(running.url, CLIENTS, 2.0, digits=6))
        assert (tally.lost, tally.mixed) == ([], [])
        assert tally.whole >= CLIENTS / 2
        assert tally.left > 0
        deadline = time.monotonic() + 60
        while any(model["running"] for model in running.get("/status").json()["models"]):
            assert time.monotonic() < deadline, "generations of clients that went away go on"
            time.sleep(0.05)
        llama.release_memory()
        assert mx.get_active_memory() <= before + 1_000_000
