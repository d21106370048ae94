"""A real server on loopback, in a thread of the test's process."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from safetensors.numpy import save_file

from llama3_mlx.library.catalogue import Catalogue
from llama3_mlx.server.running import listen, make_server
from llama3_mlx.server.settings import ServerSettings

from .processes import WAIT_S


def save_adapter(folder: Path, inputs: int, outputs: int, *, layers: int = 2, seed: int = 0, size: float = 0.3) -> Path:
    """Write a random adapter of mlx-lm's layout on the attention's outputs, (inputs, 4) and (4, outputs) a layer."""
    rng = np.random.default_rng(seed)
    factors = {
        f"model.layers.{layer}.self_attn.o_proj.{part}": rng.normal(0, size, shape).astype(np.float32)
        for layer in range(layers)
        for part, shape in (("lora_a", (inputs, 4)), ("lora_b", (4, outputs)))
    }
    save_file(factors, folder / "adapters.safetensors")
    parameters = {"rank": 4, "scale": 4.0, "dropout": 0.0}
    values = {"fine_tune_type": "lora", "num_layers": layers, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return folder


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
    deadline = time.monotonic() + WAIT_S
    while not server.started:
        assert thread.is_alive(), "the server ended while it started"
        assert time.monotonic() < deadline, "the server doesn't start"
        time.sleep(0.01)
    try:
        yield Running(f"http://127.0.0.1:{listening.getsockname()[1]}", server.config.app)
    finally:
        server.should_exit = True
        thread.join(WAIT_S)
        assert not thread.is_alive(), "the server doesn't stop"
