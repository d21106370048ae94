"""A real server on loopback, in a thread of the test's process."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from llama3_mlx.server.catalogue import Catalogue
from llama3_mlx.server.running import listen, make_server
from llama3_mlx.server.settings import ServerSettings


@dataclass(frozen=True)
class Running:
    """A running server."""

    url: str
    app: Any

    def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """POST JSON and return the response."""
        return httpx.post(self.url + path, json=body, timeout=120, **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        """GET and return the response."""
        return httpx.get(self.url + path, timeout=120, **more)


@contextmanager
def running_server(
    models: Mapping[str, Path], adapters: Mapping[str, Path] | None = None, *, with_home: bool = False, **settings: Any
) -> Iterator[Running]:
    """Run a server of the models on a free port."""
    chosen = ServerSettings(**{"port": 0, **settings})
    server = make_server(chosen, Catalogue(models, adapters or {}, with_home=with_home))
    listening = listen(chosen)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server ended while it started"
        time.sleep(0.01)
    try:
        yield Running(f"http://127.0.0.1:{listening.getsockname()[1]}", server.config.app)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server doesn't stop"
