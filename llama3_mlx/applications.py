"""What an application asks before and beside a `Llama`: which models are here, downloads, no network, memory."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .device import memory_pressure
from .errors import ConfigError
from .library.catalogue import Catalogue
from .library.downloads import StoppedError
from .library.resolver import resolve_model
from .loader import LoadCallback, LoadProgress

PRESSURES = {1: "normal", 2: "warning", 4: "critical"}


@dataclass(frozen=True, kw_only=True)
class AvailableModel:
    """A model on this machine."""

    name: str
    """What `Llama.load` and every command call it by."""
    folder: Path
    size_bytes: int
    """Of its files on the disk."""
    parameters: int
    bits: float
    """Bits per weight, scales included."""
    context: int
    """Tokens at most."""
    adapters: tuple[str, ...]
    """Names of the adapters on this machine that fit it."""


def available_models() -> list[AvailableModel]:
    """Return the models on this machine: those in the home folder and the complete Llamas in the Hub's cache."""
    catalogue = Catalogue({}, {})
    found = []
    for entry in catalogue.models().values():
        try:
            needs = entry.needs
        except ConfigError:
            continue
        found.append(
            AvailableModel(
                name=entry.name,
                folder=entry.folder,
                size_bytes=entry.size_bytes,
                parameters=needs.parameters,
                bits=needs.weight_bytes * 8 / needs.parameters,
                context=entry.config.max_position_embeddings,
                adapters=tuple(catalogue.adapters(entry)),
            )
        )
    return found


def download(
    path_or_id: str, *, progress: LoadCallback | None = None, cancel: threading.Event | None = None
) -> Path | None:
    """Return the folder of a model, downloaded if need be; None once `cancel` is set, which may be from any thread.

    Files that are whole stay, and the next call goes on from them. `progress` is told from the download's threads.
    Raises CheckpointError or HubError.
    """

    def told(done: int, total: int) -> None:
        if progress is not None:
            progress(LoadProgress(stage="downloading", name=path_or_id, done=done, total=total))

    try:
        return resolve_model(path_or_id, report=told, stop=cancel)
    except StoppedError:
        return None


def go_offline() -> None:
    """Forbid this process the network from now on: what isn't on this machine raises HubError.

    The same as `HF_HUB_OFFLINE=1` in its environment.
    """
    import os

    os.environ["HF_HUB_OFFLINE"] = "1"
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True


def watch_memory(callback: Callable[[str], object], *, every_s: float = 1.0) -> Callable[[], None]:
    """Call back with `normal`, `warning` or `critical` whenever the system's memory pressure becomes another.

    The engine itself gives back what it can under pressure; an application may close a model or tell its user. The
    callback runs in a thread of its own. Returns the function that ends the watch.
    """
    ended = threading.Event()

    def watch() -> None:
        last = "normal"
        while not ended.wait(every_s):
            level = PRESSURES.get(memory_pressure(), "normal")
            if level != last:
                last = level
                callback(level)

    thread = threading.Thread(target=watch, daemon=True, name="llama3-mlx memory")
    thread.start()

    def end() -> None:
        ended.set()
        if threading.current_thread() is not thread:
            thread.join()

    return end
