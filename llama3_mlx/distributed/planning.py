"""How a model would lie on several machines: memory, traffic and an estimate of the rate, from its config alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..dtypes import DTYPES
from ..errors import RequestError
from ..model.config import ModelConfig
from ..model.memory_estimate import RESERVE, tensor_bytes
from ..model.parameters import expected_tensors
from .shares import Share, Split, is_even, length, pipeline_shares, tensor_shares


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
    bytes_per_message: int
    tokens_per_second: float
    """An estimate of the decode rate of one sequence, from the bytes read and sent alone."""
    even: bool

    @property
    def fits(self) -> bool:
        """Whether every machine has room."""
        return all(node.head_room >= 0 for node in self.nodes)

    @property
    def bytes_per_token(self) -> int:
        """Bytes of hidden states that a generated token sends into all-reduces or to the next machine."""
        return self.messages_per_token * self.bytes_per_message


def share_bytes(config: ModelConfig, share: Share, float_bytes: int) -> int:
    """Return the bytes of a share's weights."""
    total, local = 0, share.config(config)
    for name, shape in expected_tensors(local).items():
        if share.has_ends or name.startswith("model.layers."):
            total += tensor_bytes(share.global_name(name), shape, config.quantization, float_bytes)
    return total


def kv_bytes_per_token(config: ModelConfig, share: Share, float_bytes: int) -> int:
    """Return what one position takes in a share's KV cache."""
    return 2 * length(share.layers) * length(share.kv_heads) * config.head_dim * float_bytes


def messages_per_token(config: ModelConfig, split: Split, size: int) -> int:
    """Return the all-reduces or sends of one forward pass: two a layer and one at its start, or one a machine."""
    if size == 1:
        return 0
    return 2 * config.num_hidden_layers + 1 if split == "tensor" else size


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
        shares = tensor_shares(config, len(nodes))
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
    message = config.hidden_size * float_bytes
    count = messages_per_token(config, split, len(nodes))
    rate = 1 / _seconds_per_token(config, plans, link, split, count, message, float_bytes)
    return Plan(split, plans, count, message, rate, split == "pipeline" or is_even(shares))


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


def _seconds_per_token(
    config: ModelConfig, plans: Sequence[NodePlan], link: Link, split: Split, count: int, message: int, float_bytes: int
) -> float:
    """Estimate a decode step: weights and KV cache are read once, messages go one after another."""
    # Of the embedding, one row is read; a head of its own, or the tied one, is read whole.
    embedding = tensor_bytes(
        "model.embed_tokens.weight", (config.vocab_size, config.hidden_size), config.quantization, float_bytes
    )
    unread = [0 if config.tie_word_embeddings or plan.share.rank else embedding for plan in plans]
    reading = [
        (plan.weight_bytes - skipped + plan.kv_bytes) / plan.node.bandwidth
        for plan, skipped in zip(plans, unread, strict=True)
    ]
    if split == "pipeline":
        return sum(reading) + count * (link.latency_s + message / link.bandwidth)
    # A ring passes every part on twice around; where all are joined to all, it is sent out and collected.
    size = len(plans)
    steps = 2 if link.is_mesh else 2 * (size - 1)
    sent = 2 * (size - 1) / size * message
    return max(reading) + count * (steps * link.latency_s + sent / link.bandwidth)
