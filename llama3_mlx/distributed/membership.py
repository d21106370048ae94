"""Which process of a group this is, as `mlx.launch` and our own start of local processes say it in the environment."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import PeerError

DEADLINE, _DEADLINE_S = "LLAMA3_MLX_NODE_TIMEOUT", 30.0
COORDINATOR = "LLAMA3_MLX_COORDINATOR"
# From the port of rank 0's ring, or of jaccl's coordinator, to that of our own channel.
_PORT_OFFSET = 1000


@dataclass(frozen=True)
class Membership:
    """A process's number in its group, and where the others are."""

    rank: int
    size: int
    backend: str
    coordinator: tuple[str, int]
    """Host and port where rank 0 listens for the others."""
    addresses: tuple[str, ...] = ()
    """The address of each rank as the launcher names it, `ip:port`; empty where the back end has none."""

    @property
    def shares_machine(self) -> bool:
        """Whether all processes run on one machine."""
        return len({address.rpartition(":")[0] for address in self.addresses}) == 1

    def name(self, rank: int) -> str:
        """Return a rank with its address, for messages."""
        return f"rank {rank} ({self.addresses[rank]})" if self.addresses else f"rank {rank}"


def deadline_s() -> float:
    """Return how many seconds processes wait for one another: at the start, and for a sign of life."""
    text = os.environ.get(DEADLINE) or str(_DEADLINE_S)
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.5 <= value < float("inf"):
        raise PeerError(f"{DEADLINE} must be a number of seconds from 0.5 on, not {text!r}")
    return value


def membership(environment: Mapping[str, str] | None = None) -> Membership | None:
    """Return what the launcher says of this process, None without a launcher or in a group of one.

    Raises PeerError where it can't be read. Source: `mlx.distributed.init` and `mlx.launch` (ring: MLX_RANK and
    MLX_HOSTFILE; jaccl: MLX_IBV_DEVICES and MLX_JACCL_COORDINATOR; Open MPI: OMPI_COMM_WORLD_RANK and _SIZE).
    """
    variables = os.environ if environment is None else environment
    if "MLX_RANK" in variables and "MLX_HOSTFILE" in variables:
        found: Membership | None = _ring(variables)
    elif "MLX_RANK" in variables and "MLX_JACCL_COORDINATOR" in variables:
        size = len(_json_list(variables["MLX_IBV_DEVICES"])) if "MLX_IBV_DEVICES" in variables else 0
        address = variables["MLX_JACCL_COORDINATOR"]
        found = Membership(_whole("MLX_RANK", variables), size, "jaccl", _coordinator(variables, address))
    elif "OMPI_COMM_WORLD_SIZE" in variables:
        rank, size = (_whole(f"OMPI_COMM_WORLD_{name}", variables) for name in ("RANK", "SIZE"))
        found = Membership(rank, size, "mpi", _coordinator(variables, None)) if size > 1 else None
    else:
        return None
    if found is None or found.size < 2:
        return None
    if not 0 <= found.rank < found.size:
        raise PeerError(f"this process is rank {found.rank} of a group of {found.size}: ranks count from 0")
    return found


def _ring(variables: Mapping[str, str]) -> Membership:
    hosts = _json_list(variables["MLX_HOSTFILE"])
    addresses = tuple(str(entry[0] if isinstance(entry, list) and entry else entry) for entry in hosts)
    if not addresses:
        raise PeerError(f"{variables['MLX_HOSTFILE']} names no host")
    coordinator = _coordinator(variables, addresses[0])
    return Membership(_whole("MLX_RANK", variables), len(addresses), "ring", coordinator, addresses)


def _json_list(path: str) -> list[object]:
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PeerError(f"the launcher's file {path} can't be read: {error}") from None
    if not isinstance(value, list):
        raise PeerError(f"the launcher's file {path} must hold a list, an entry a process")
    return value


def _whole(name: str, variables: Mapping[str, str]) -> int:
    text = variables.get(name, "")
    if not text.isdigit():
        raise PeerError(f"{name} must be a whole number, not {text!r}")
    return int(text)


def _coordinator(variables: Mapping[str, str], first: str | None) -> tuple[str, int]:
    """Return where rank 0 listens: what the variable says, else beside the first address of the launcher."""
    named = variables.get(COORDINATOR)
    host, _, port = (named or first or "").rpartition(":")
    if not host or not port.isdigit():
        raise PeerError(f"set {COORDINATOR} to IP:PORT of rank 0, where the other processes find it")
    return host.strip("[]"), int(port) + (0 if named else _PORT_OFFSET)
