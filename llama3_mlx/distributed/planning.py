"""How a model would lie on several machines: memory, traffic and an estimate of the rate, from its config alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..dtypes import DTYPES
from ..errors import RequestError
from ..model.config import ModelConfig
from ..model.memory_estimate import RESERVE, tensor_bytes
from ..model.parameters import expected_tensors
from .shares import Share, Split, head_divides, is_even, length, pipeline_shares, tensor_shares


@dataclass(frozen=True)
class Node:
    """One machine: memory for models in bytes, and how many bytes a second it reads of it."""

    name: str
    memory_bytes: int
    bandwidth: float


@dataclass(frozen=True)
class Link:
    """What joins the machines: bytes a second, seconds a message takes, and whether all are joined to all (RDMA)."""

    bandwidth: float
    latency_s: float
    is_mesh: bool = False

    def collective_s(self, size: int, nbytes: float) -> float:
        """Return how long a sum of so many bytes over `size` machines takes.

        A ring passes every part on twice around; where all are joined to all, it is sent out and collected.
        """
        steps = 2 if self.is_mesh else 2 * (size - 1)
        return steps * self.latency_s + 2 * (size - 1) / size * nbytes / self.bandwidth


# Usual figures: https://github.com/ml-explore/mlx/issues (latencies of users' rings and of RDMA), Thunderbolt 4 and 5.
LINKS = {
    "rdma": Link(6e9, 10e-6, is_mesh=True),
    "thunderbolt": Link(3e9, 300e-6),
    "ethernet": Link(1.1e9, 300e-6),
}
BANDWIDTH = 400e9
"""Of a machine's memory, bytes a second, where it isn't given."""


@dataclass(frozen=True)
class NodePlan:
    """What one machine holds and has left, in bytes; negative head room doesn't fit."""

    node: Node
    share: Share
    weight_bytes: int
    kv_bytes: int

    @property
    def head_room(self) -> int:
        """Bytes that are left of the memory, after a reserve for the system and intermediate results."""
        return int(self.node.memory_bytes * (1 - RESERVE)) - self.weight_bytes - self.kv_bytes


@dataclass(frozen=True)
class Plan:
    """A model split one way over machines, for sequences of `context` tokens."""

    split: Split
    nodes: Sequence[NodePlan]
    messages_per_token: int
    """All-reduces (tensor) or sends (pipeline) of a forward pass; none on one machine."""
    bytes_per_token: int
    """Bytes of hidden states, and of logits where the head is split, that a token sends."""
    tokens_per_second: float
    """An estimate of the decode rate of one sequence, from the bytes read and sent alone."""
    even: bool

    @property
    def splits_head(self) -> bool:
        """Whether each machine has the head's rows of some tokens."""
        return self.nodes[0].share.vocabulary is not None

    @property
    def fits(self) -> bool:
        """Whether every machine has room."""
        return all(node.head_room >= 0 for node in self.nodes)


def share_bytes(config: ModelConfig, share: Share, float_bytes: int) -> int:
    """Return the bytes of a share's weights."""
    total = 0
    for name, (rows, *columns) in expected_tensors(config).items():
        if share.local_name(name) is None:
            continue
        outputs, inputs = share.cut(name, config)
        if outputs is not None:
            rows = length(outputs)
        if inputs is not None and columns:
            columns = [length(inputs)]
        total += tensor_bytes(name, (rows, *columns), config.quantization, float_bytes)
    return total


def _read_bytes(config: ModelConfig, share: Share, float_bytes: int) -> int:
    """Return the bytes of weights that a decode step reads: of the embedding, one row; of the head, what is held."""
    V, D = config.vocab_size, config.hidden_size
    embedding = tensor_bytes("model.embed_tokens.weight", (V, D), config.quantization, float_bytes)
    total = share_bytes(config, share, float_bytes)
    if not config.tie_word_embeddings:
        return total - (embedding if share.has_ends else 0)
    if share.vocabulary is None or not share.has_ends:
        return total
    return total - embedding + embedding * length(share.vocabulary) // V


def kv_bytes_per_token(config: ModelConfig, share: Share, float_bytes: int) -> int:
    """Return what one position takes in a share's KV cache."""
    return 2 * length(share.layers) * length(share.kv_heads) * config.head_dim * float_bytes


def messages_per_chunk(config: ModelConfig, share: Share) -> int:
    """Return the all-reduces or sends of a chunk of a prompt before its last.

    Two a layer and one at its start, or one a machine but the last, which keeps what comes of it.
    """
    if share.size == 1:
        return 0
    return 2 * config.num_hidden_layers + 1 if share.split == "tensor" else share.size - 1


def messages_per_token(config: ModelConfig, share: Share) -> int:
    """Return those of a pass whose logits are wanted: a pipeline's last machine sends on, a split head takes two."""
    if share.size == 1:
        return 0
    return messages_per_chunk(config, share) + (2 if share.vocabulary is not None else share.split == "pipeline")


def bytes_per_token(config: ModelConfig, share: Share, float_bytes: int) -> int:
    """Return the bytes of these messages for one position: hidden states each, and the logits of a split head."""
    count = messages_per_token(config, share)
    if share.vocabulary is None:
        return count * config.hidden_size * float_bytes
    return ((count - 1) * config.hidden_size + length(share.vocabulary)) * float_bytes


def _gathering_s(config: ModelConfig, size: int, link: Link, float_bytes: int) -> float:
    """Return how long gathering a position's logits takes: half of a sum of as many bytes."""
    return link.collective_s(size, config.vocab_size * float_bytes) / 2


def head_pays(config: ModelConfig, size: int, link: Link, bandwidth: float, float_bytes: int) -> bool:
    """Return whether splitting the head saves rank 0 more time than its two messages take.

    Not where heads don't divide evenly: rank 0 has the fewest, and time for the whole head.
    """
    whole = tensor_shares(config, size)
    if not head_divides(config, size) or not is_even(whole):
        return False
    split = tensor_shares(config, size, split_head=True)
    saved = _read_bytes(config, whole[0], float_bytes) - _read_bytes(config, split[0], float_bytes)
    message = link.collective_s(size, config.hidden_size * float_bytes)
    return saved / bandwidth > message + _gathering_s(config, size, link, float_bytes)


def pipeline_room(config: ModelConfig, memory: Sequence[int], float_bytes: int) -> list[float]:
    """Return each machine's room for layers: its memory less the reserve, on rank 0 less embedding and head."""
    room = [total * (1 - RESERVE) for total in memory]
    ends = [(name, shape) for name, shape in expected_tensors(config).items() if not name.startswith("model.layers.")]
    room[0] -= sum(tensor_bytes(name, shape, config.quantization, float_bytes) for name, shape in ends)
    return room


def make_plan(config: ModelConfig, nodes: Sequence[Node], link: Link, split: Split, context: int, dtype: str) -> Plan:
    """Return how the model lies on `nodes` when split one way; raises RequestError where it can't be."""
    float_bytes = DTYPES[dtype].size
    if split == "tensor":
        slowest = min(node.bandwidth for node in nodes)
        splits_head = head_pays(config, len(nodes), link, slowest, float_bytes)
        shares = tensor_shares(config, len(nodes), split_head=splits_head)
    else:
        shares = pipeline_shares(config, pipeline_room(config, [node.memory_bytes for node in nodes], float_bytes))
    plans = [
        NodePlan(
            node,
            share,
            share_bytes(config, share, float_bytes),
            kv_bytes_per_token(config, share, float_bytes) * context,
        )
        for node, share in zip(nodes, shares, strict=True)
    ]
    count, sent = messages_per_token(config, shares[0]), bytes_per_token(config, shares[0], float_bytes)
    rate = 1 / _seconds_per_token(config, plans, link, float_bytes)
    return Plan(split, plans, count, sent, rate, split == "pipeline" or is_even(shares))


def best_plan(config: ModelConfig, nodes: Sequence[Node], link: Link, context: int, dtype: str) -> tuple[Plan, str]:
    """Return the better way of splitting, and why it is."""
    if len(nodes) == 1:
        return make_plan(config, nodes, link, "pipeline", context, dtype), "one machine holds all of it"
    pipeline = make_plan(config, nodes, link, "pipeline", context, dtype) if _has_layers(config, nodes) else None
    try:
        tensor = make_plan(config, nodes, link, "tensor", context, dtype)
    except RequestError as error:
        if pipeline is None:
            raise
        return pipeline, f"whole layers, because {str(error).partition(': ')[2].partition(';')[0]}"
    if pipeline is None:
        return tensor, "by heads: there are more machines than layers"
    if pipeline.fits != tensor.fits:
        fitting, other = (pipeline, "tensor") if pipeline.fits else (tensor, "pipeline")
        return fitting, f"the only way that fits: split the {other} way, a machine has too little memory"
    rates = f"{tensor.tokens_per_second:.1f} tokens/s by heads, {pipeline.tokens_per_second:.1f} by whole layers"
    if tensor.tokens_per_second > pipeline.tokens_per_second:
        return tensor, f"all machines work on each token, and the link keeps up (estimated {rates})"
    return pipeline, f"{tensor.messages_per_token} messages a token are too many for the link (estimated {rates})"


def _has_layers(config: ModelConfig, nodes: Sequence[Node]) -> bool:
    return len(nodes) <= config.num_hidden_layers


def _seconds_per_token(config: ModelConfig, plans: Sequence[NodePlan], link: Link, float_bytes: int) -> float:
    """Estimate a decode step: weights and KV cache are read once, messages go one after another."""
    share, size = plans[0].share, len(plans)
    reading = [(_read_bytes(config, plan.share, float_bytes) + plan.kv_bytes) / plan.node.bandwidth for plan in plans]
    message, count = config.hidden_size * float_bytes, messages_per_token(config, share)
    if share.split == "pipeline":
        return sum(reading) + count * (link.latency_s + message / link.bandwidth)
    gathered = 0.0
    if share.vocabulary is not None:
        count, gathered = count - 1, _gathering_s(config, size, link, float_bytes)
    return max(reading) + count * link.collective_s(size, message) + gathered
