"""Loads a model over several processes, from the leader's side."""

import atexit
import threading
from contextlib import suppress
from dataclasses import dataclass, field

from ..checkpoint.folder import ModelFolder
from ..device import compute_dtype_name, working_memory_bytes
from ..dtypes import DTYPES
from ..errors import PeerError, RequestError
from ..kv_cache import CacheOptions
from ..model.config import ModelConfig
from .exchange import make_exchange
from .fingerprint import fingerprint
from .group import Sentinel
from .launcher import end_with_launcher
from .leader import Leader
from .local_nodes import LocalNodes
from .membership import Membership, deadline_s, membership
from .mirrored_cache import Mirror
from .planning import pipeline_room
from .share_loading import load_share
from .shares import Share, is_even, length, pipeline_shares, tensor_shares
from .split_model import LeaderLlama

# The group of this process: MLX joins one and no other.
_LOCK = threading.Lock()


@dataclass
class Nodes:
    """The processes that this one leads."""

    leader: Leader
    local: LocalNodes | None
    sentinel: Sentinel
    shares: list[Share] = field(default_factory=list)
    """What each rank holds of the model that lies on them now."""
    room: dict[int, dict[str, float]] = field(default_factory=dict)
    """What the followers say of their memory beside their shares."""

    def shared_room(self, own_bytes: int, own_per_token: float, cache: CacheOptions) -> int:
        """Return the memory that rank 0 may fill with KV cache so that no node has too little: the scarcest decides."""
        positions = [own_bytes / own_per_token]
        for rank, room in self.room.items():
            share = self.shares[rank]
            per_token = cache.bytes_per_token(
                length(share.layers), length(share.kv_heads), int(room["head_dim"]), int(room["float_bytes"])
            )
            positions.append(max(0.0, room["bytes"]) / per_token)
        return int(min(positions) * own_per_token)

    def close(self) -> None:
        """End the followers."""
        self.leader.close()
        self.sentinel.close()
        if self.local is not None:
            self.local.stop()


_NODES: list[Nodes] = []


def lead(size: int) -> Nodes:
    """Return the group of `size` processes that this one leads: the launcher's, or followers started here.

    Raises PeerError, or RequestError where another group was joined.
    """
    with _LOCK:
        if _NODES:
            if _NODES[0].leader.member.size != size:
                raise RequestError(
                    f"this process leads {_NODES[0].leader.member.size} nodes; for {size}, start another process"
                )
            if _NODES[0].leader.failure is not None:
                raise _NODES[0].leader.failure
            return _NODES[0]
        _NODES.append(_join(size))
        atexit.register(_NODES[0].close)
        return _NODES[0]


def leave() -> bool:
    """End the followers if one of them is gone, and return whether one is: MLX may wait for it for ever."""
    if not _NODES or _NODES[0].leader.failure is None:
        return False
    _NODES[0].close()
    return True


def _join(size: int) -> Nodes:
    member = membership()
    if member is None:
        local = LocalNodes(size)
        try:
            with local.environment():
                leader = Leader(local.member, deadline_s())
        except BaseException:
            local.stop()
            raise
        # A stopped process keeps its connections: only its end frees what waits for it in MLX.
        leader.on_failure(lambda _: local.stop())
        return Nodes(leader, local, Sentinel(2 * deadline_s()))
    if member.size != size or member.rank:
        raise RequestError(
            f"rank {member.rank} of the launcher's {member.size} asked for {size} nodes: rank 0 asks, for all of them"
        )
    end_with_launcher()
    return Nodes(Leader(member, deadline_s()), None, Sentinel(2 * deadline_s()))


def load_split_model(folder: ModelFolder, nodes: Nodes, *, split: str, dtype: str | None) -> LeaderLlama:
    """Load the model in `folder` over all nodes and return rank 0's end of it.

    Raises RequestError before anything is loaded where it can't be split, PeerError where a node can't load its share.
    """
    if nodes.shares:
        raise RequestError("another model lies on these nodes: close it first")
    leader, config = nodes.leader, folder.config
    chosen = compute_dtype_name(config.dtype, dtype)
    shares = choose_shares(config, leader.member, split, _memory(leader), DTYPES[chosen].size, nodes.local is not None)
    nodes.shares = shares
    request = {"do": "load", "folder": str(folder.path.resolve()), "fingerprint": fingerprint(folder), "dtype": chosen}
    leader.tell(request | {"share": {str(share.rank): share.to_dict() for share in shares}})
    try:
        model = load_share(folder, shares[0], chosen)
    finally:
        answers = leader.answers()
    nodes.room = {rank: answer["room"] for rank, answer in answers.items()}
    return LeaderLlama(model, config, make_exchange(shares[0], leader.group), Mirror(leader.order))


def release(nodes: Nodes) -> None:
    """Have the followers free their shares, for another model."""
    # A node that is gone holds nothing any more; whoever uses the others is told then.
    with suppress(PeerError):
        nodes.leader.tell({"do": "unload"})
        nodes.leader.answers()
    nodes.shares = []


def _memory(leader: Leader) -> list[int]:
    others = [leader.facts[rank]["memory_bytes"] for rank in range(1, leader.member.size)]
    return [working_memory_bytes(), *map(int, others)]


def choose_shares(
    config: ModelConfig, member: Membership, split: str, memory: list[int], float_bytes: int, local: bool
) -> list[Share]:
    """Return each rank's share; "auto" takes heads where all get as many and the link is fast, else whole layers."""
    pipeline = pipeline_room(config, memory, float_bytes)
    if split == "pipeline":
        return pipeline_shares(config, pipeline)
    if split == "tensor":
        return tensor_shares(config, member.size)
    if local or member.backend != "ring" or member.size > config.num_hidden_layers:
        try:
            shares = tensor_shares(config, member.size)
        except RequestError:
            return pipeline_shares(config, pipeline)
        if is_even(shares) or member.size > config.num_hidden_layers:
            return shares
    return pipeline_shares(config, pipeline)
