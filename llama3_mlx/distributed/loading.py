"""Loads a model over several processes, from the leader's side."""

import atexit
import threading
from contextlib import suppress
from dataclasses import dataclass, field

from ..checkpoint.folder import ModelFolder
from ..device import compute_dtype_name, working_memory_bytes
from ..dtypes import DTYPES
from ..errors import PeerError, RequestError
from ..json_types import JsonObject
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
from .planning import BANDWIDTH, LINKS, head_pays, pipeline_room
from .share_files import hub_source, open_share
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
    loaded: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Bytes that the followers' shares take, and that they took at most while they were loaded."""
    folder: ModelFolder | None = None
    """The model that lies on them now, with what rank 0 holds of it."""

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


def load_split_model(
    folder: ModelFolder, nodes: Nodes, *, split: str, dtype: str | None, split_head: bool | None = None
) -> LeaderLlama:
    """Load the model in `folder` over all nodes and return rank 0's end of it.

    Where heads are split, so is the language-model head on request (None: where it is likely to pay).

    Raises RequestError before anything is loaded where it can't be split, PeerError where a node can't load its share.
    """
    if nodes.shares:
        raise RequestError("another model lies on these nodes: close it first")
    leader, config = nodes.leader, folder.config
    chosen = compute_dtype_name(config.dtype, dtype)
    size = DTYPES[chosen].size
    shares = choose_shares(config, leader.member, split, _memory(leader), size, nodes.local is not None)
    if shares[0].split == "tensor" and (_head_pays(nodes, config, size) if split_head is None else split_head):
        shares = tensor_shares(config, leader.member.size, split_head=True)
    nodes.shares = shares
    source = hub_source(folder.path)
    if source is None:
        where: JsonObject = {"folder": str(folder.path.resolve()), "fingerprint": fingerprint(folder)}
    else:
        where = {"hub": source}
    request = {"do": "load", "dtype": chosen, **where}
    leader.tell(request | {"share": {str(share.rank): share.to_dict() for share in shares}})
    try:
        nodes.folder = folder if source is None else open_share(source, shares[0])
        model = load_share(nodes.folder, shares[0], chosen)
    finally:
        answers = leader.answers()
    nodes.room = {rank: answer["room"] for rank, answer in answers.items()}
    nodes.loaded = {rank: (answer["held_bytes"], answer["peak_bytes"]) for rank, answer in answers.items()}
    exchange, mirror = make_exchange(shares[0], leader.group), Mirror(leader.order)
    n_stages = len(shares) if shares[0].split == "pipeline" and groups_pay(leader.member) else 1
    return LeaderLlama(model, config, exchange, mirror, splits_head=shares[0].vocabulary is not None, n_stages=n_stages)


def groups_pay(member: Membership) -> bool:
    """Return whether the stages of a pipeline gain from working on different sequences: not on one machine.

    There each pass over a part of them would read the same weights again, through the same memory.
    """
    return not member.shares_machine


def release(nodes: Nodes) -> None:
    """Have the followers free their shares, for another model."""
    # A node that is gone holds nothing any more; whoever uses the others is told then.
    with suppress(PeerError):
        nodes.leader.tell({"do": "unload"})
        nodes.leader.answers()
    nodes.shares, nodes.folder = [], None


def _head_pays(nodes: Nodes, config: ModelConfig, float_bytes: int) -> bool:
    """Return what `plan` says of a head over the link that the back end has; on one machine, no memory is saved."""
    if nodes.local is not None:
        return False
    member = nodes.leader.member
    link = LINKS["thunderbolt" if member.backend == "ring" else "rdma"]
    return head_pays(config, member.size, link, BANDWIDTH, float_bytes)


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
