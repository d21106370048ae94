"""The hostfile of `mlx.launch`, with what `plan` wants to know of each machine besides."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import RequestError


@dataclass(frozen=True)
class Host:
    """An entry: its name, whether RDMA is set up, and memory and bandwidth in bytes if they are given."""

    name: str
    has_rdma: bool
    memory_bytes: int | None
    bandwidth: float | None


def read_hostfile(path: Path) -> list[Host]:
    """Return the machines of a hostfile; raises RequestError if it isn't one.

    Beside `mlx.launch`'s `ssh`, `ips` and `rdma`, an entry may have `memory_gb` and `bandwidth_gb` (a second).
    Source of the format: `mlx.distributed_config` and https://ml-explore.github.io/mlx/build/html/usage/distributed.html.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"the hostfile {path} can't be read: {error}") from None
    entries = value.get("hosts") if isinstance(value, dict) else value
    if not isinstance(entries, list) or not entries:
        raise RequestError(f"the hostfile {path} must hold a list of machines, as mlx.distributed_config writes it")
    return [_host(path, number, entry) for number, entry in enumerate(entries)]


def _host(path: Path, number: int, entry: object) -> Host:
    if not isinstance(entry, Mapping):
        raise RequestError(f"{path}: entry {number} must be an object with ssh and ips, not {entry!r}")
    ips = entry.get("ips")
    name = entry.get("ssh") or (ips[0] if isinstance(ips, list) and ips else f"machine {number}")
    memory, bandwidth = (_gigabytes(path, number, entry, key) for key in ("memory_gb", "bandwidth_gb"))
    return Host(str(name), bool(entry.get("rdma")), None if memory is None else int(memory), bandwidth)


def _gigabytes(path: Path, number: int, entry: Mapping[str, object], key: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise RequestError(f"{path}: {key} of entry {number} must be a positive number, not {value!r}")
    return float(value) * 1e9
