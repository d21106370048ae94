"""The prefix cache on disk, shared by processes: KV cache blocks, found by all tokens up to their end.

A block's name is a hash chain: of the model's fingerprint and of all tokens up to the block's end. So equal prefixes
share their blocks, a block can only be found after its predecessors, and two processes that write the same block
write the same file. A file is checked against the checksum in its header before it is used, and deleted if damaged.
"""

import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..checkpoint.safetensors_files import read_header
from ..errors import CheckpointError
from ..files import save_whole
from ..model.channel_scales import SCALES_NAME

BLOCK = 128
FORMAT = "1"
_SUFFIX = ".safetensors"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredBlock:
    """One block on disk."""

    path: Path
    model: str
    tokens: int
    nbytes: int
    used_s: float


class BlockStore:
    """A folder of blocks that stays under `limit_bytes`: the least recently used are evicted, a chain from its end.

    Every process may read, write and clear at any time.
    """

    def __init__(self, folder: Path, limit_bytes: int, *, model: str = "") -> None:
        """`model` is the name under which the blocks that are saved are listed."""
        self.folder, self.limit_bytes, self.model = folder, limit_bytes, model

    def find(self, fingerprint: str, tokens: Sequence[int]) -> int:
        """Return how many leading tokens are on disk, a multiple of BLOCK."""
        found = 0
        for key in chain(fingerprint, tokens):
            if not self._path(key).exists():
                break
            found += BLOCK
        return found

    def load(self, fingerprint: str, tokens: Sequence[int]) -> list[list[mx.array]]:
        """Return the arrays of each leading block, evaluated, up to the first that is missing or damaged."""
        blocks: list[list[mx.array]] = []
        paths = []
        for key in chain(fingerprint, tokens):
            path = self._path(key)
            arrays = _read(path, key)
            if arrays is None:
                break
            blocks.append(arrays)
            paths.append(path)
        _touch(paths)
        return blocks

    def save(self, fingerprint: str, tokens: Sequence[int], block: Callable[[int, int], list[mx.array]]) -> None:
        """Write the blocks that aren't there yet; `block(start, stop)` gives a block's arrays.

        A full or read-only disk is a warning in the log, not an error.
        """
        paths = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for at, key in enumerate(chain(fingerprint, tokens)):
                path = self._path(key)
                if not path.exists():
                    arrays = [mx.contiguous(array) for array in block(at * BLOCK, (at + 1) * BLOCK)]
                    mx.eval(arrays)
                    save_whole(path, partial(self._write, key=key, arrays=arrays))
                paths.append(path)
            _touch(paths)
            self._evict()
        except (OSError, RuntimeError) as error:
            _log.warning("the prefix cache in %s can't be written: %s", self.folder, error)

    def blocks(self) -> Iterator[StoredBlock]:
        """Yield all blocks."""
        for path in self.folder.glob(f"*{_SUFFIX}") if self.folder.is_dir() else ():
            if path.name.startswith("."):
                continue
            try:
                state, metadata = path.stat(), _metadata(path)
            except (OSError, ValueError):
                continue
            yield StoredBlock(path, metadata.get("model", ""), BLOCK, state.st_size, state.st_mtime)

    def clear(self, model: str | None = None, *, unused_since_s: float | None = None) -> int:
        """Delete all blocks, of one model, or unused since a time; return the bytes that were freed."""
        freed = 0
        for block in list(self.blocks()):
            if model not in (None, block.model) or (unused_since_s is not None and block.used_s >= unused_since_s):
                continue
            block.path.unlink(missing_ok=True)
            freed += block.nbytes
        return freed

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _write(self, place: Path, key: str, arrays: Sequence[mx.array]) -> None:
        named = {f"{at:05}": array for at, array in enumerate(arrays)}
        metadata = {"key": key, "model": self.model, "checksum": str(_checksum(key, named))}
        mx.save_safetensors(str(place), named, metadata)

    def _evict(self) -> None:
        states = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            try:
                states.append((path.stat().st_mtime_ns, path.stat().st_size, path))
            except FileNotFoundError:
                continue
        total = sum(size for _, size, _ in states)
        for _, size, path in sorted(states):
            if total <= self.limit_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size


def chain(fingerprint: str, tokens: Sequence[int]) -> Iterator[str]:
    """Yield the key of each whole block of the tokens."""
    digest = hashlib.sha256(f"{FORMAT} {fingerprint}".encode()).digest()
    ids = np.asarray(tokens, "<i4")
    for start in range(0, len(ids) - BLOCK + 1, BLOCK):
        digest = hashlib.sha256(digest + ids[start : start + BLOCK].tobytes()).digest()
        yield digest.hex()


def model_fingerprint(folder: Path, *, dtype: str, cache_kind: str, adapter: Path | None = None) -> str:
    """Return a hash that changes with anything that the KV cache depends on.

    Weights count by their files' names, sizes, times and headers, not by their gigabytes. The same holds for a draft
    head's folder, whose file may be PyTorch's.
    """
    digest = hashlib.sha256(f"{FORMAT} {dtype} {cache_kind}".encode())
    for place in (folder, *((adapter,) if adapter is not None else ())):
        kinds = ("*config*.json", SCALES_NAME, "*.safetensors", "*.bin")
        for path in sorted(path for kind in kinds for path in place.glob(kind)):
            state = path.stat()
            digest.update(f"{path.name} {state.st_size} {state.st_mtime_ns} ".encode())
            if path.suffix != ".bin":
                digest.update(path.read_bytes() if path.suffix == ".json" else _header_bytes(path))
        digest.update(b"|")
    return digest.hexdigest()


def _header_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return file.read(min(length, 100_000_000))


def _metadata(path: Path) -> dict[str, str]:
    return dict(json.loads(_header_bytes(path)).get("__metadata__", {}))


def _read(path: Path, key: str) -> list[mx.array] | None:
    """Return a block's arrays; None if there is no such block, or a damaged one, which is deleted."""
    try:
        read_header(path)
        loaded: Any = mx.load(str(path), return_metadata=True)
        named, metadata = loaded
        mx.eval(list(named.values()))
        if metadata.get("checksum") == str(_checksum(key, named)):
            return [named[name] for name in sorted(named)]
    except FileNotFoundError:
        return None
    except (CheckpointError, RuntimeError, OSError, ValueError):
        pass
    _log.warning("deleting a damaged block of the prefix cache: %s", path)
    path.unlink(missing_ok=True)
    return None


def _checksum(key: str, named: dict[str, mx.array]) -> int:
    """Return a CRC-32 of the key and of all names, shapes, dtypes and bytes."""
    value = zlib.crc32(key.encode())
    for name in sorted(named):
        array = named[name]
        value = zlib.crc32(f"{name} {array.shape} {array.dtype}".encode(), value)
        value = zlib.crc32(memoryview(array.view(mx.uint8)), value)  # type: ignore[arg-type]
    return value


def _touch(paths: Sequence[Path]) -> None:
    """Mark a chain as used, its start last, so that its end goes first."""
    now = time.time_ns()
    for at, path in enumerate(paths):
        try:
            os.utime(path, ns=(now, now - at * 1000))
        except OSError:
            continue
