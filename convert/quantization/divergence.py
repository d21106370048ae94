"""How far a quantized model is from its source: KL divergence, perplexity, agreement on the most likely token.

Both are read a layer at a time, so that two models of any size can be compared in the memory of two layers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ...divergence import kl_divergence, log_probabilities, same_top, token_logprobs
from ...model.transformer import Rope, TransformerBlock
from ..phases import Told, untold
from ..sources.source import Source
from .activations import Activations, mapped, through
from .layer_reader import LayerReader

# The matrices of a layer, in the order of a pass through it.
MODULES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


@dataclass(frozen=True)
class Distance:
    """Means over predicted tokens; KL in nats from the source to the quantized model."""

    kl: float
    perplexity: float
    source_perplexity: float
    top1_agreement: float
    tokens: int


@dataclass(frozen=True)
class ModuleDistance:
    """KL divergence in nats a token, and agreement on the most likely token, with one module quantized."""

    path: str
    kl: float
    top1_agreement: float


def distance(source: Source, result: Source, windows: Sequence[Sequence[int]], told: Told = untold) -> Distance:
    """Compare two models on windows of token ids; `told` is called with the layers that are done, of both."""
    tokens = [mx.array([list(window)]) for window in windows]
    readers = LayerReader(source), LayerReader(result)
    layers = source.config.num_hidden_layers
    activations = [
        last_hidden(reader, tokens, lambda done, of=of: told(of * layers + done, 2 * layers))  # type: ignore[misc]
        for of, reader in enumerate(readers)
    ]
    heads = [reader.head() for reader in readers]
    totals = np.zeros(4)
    for ids, *hidden in zip(tokens, *activations, strict=True):
        p, q = (_logprobs(h, head) for h, head in zip(hidden, heads, strict=True))
        totals += [*_compared(p, q), *(_loss(each, ids) for each in (p, q))]
    count = sum(ids.size - 1 for ids in tokens)
    kl, agreed, source_loss, loss = totals / count
    return Distance(float(kl), float(np.exp(loss)), float(np.exp(source_loss)), float(agreed), count)


def module_distances(reference: Source, result: Source, window: Sequence[int]) -> list[ModuleDistance]:
    """Measure each matrix of `result` alone in `reference`, whose channels must be scaled as the result's are.

    All variants go through the layers side by side, each from the layer on that its matrix is in.
    """
    exact_reader, result_reader = LayerReader(reference), LayerReader(result)
    rope = Rope(reference.config)
    ids, embedding = mx.array([list(window)]), "model.embed_tokens.weight"
    exact = exact_reader.tensor(embedding)[ids]
    variants = {"model.embed_tokens": result_reader.tensor(embedding)[ids]}
    mx.eval(exact, variants)
    for index in range(reference.config.num_hidden_layers):
        block, quantized = exact_reader.block(index), result_reader.block(index)
        passed = dict(zip(variants, through(block, list(variants.values()), rope), strict=True))
        for name in MODULES:
            passed[f"model.layers.{index}.{name}"] = _with_module(block, quantized, name, exact, rope)
        variants, (exact,) = passed, through(block, [exact], rope)
    return _distances(exact_reader, result_reader, exact, variants)


def _with_module(block: TransformerBlock, other: TransformerBlock, name: str, x: mx.array, rope: Rope) -> mx.array:
    """Return a layer's output with one matrix taken from another layer."""
    parent, _, child = name.rpartition(".")
    kept, block[parent][child] = block[parent][child], other[parent][child]
    try:
        return through(block, [x], rope)[0]
    finally:
        block[parent][child] = kept


def _distances(
    exact_reader: LayerReader, result_reader: LayerReader, exact: mx.array, variants: dict[str, mx.array]
) -> list[ModuleDistance]:
    config = exact_reader.config
    norm = exact_reader.tensor("model.norm.weight")

    def normed(x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, norm, config.rms_norm_eps)

    head, quantized_head = exact_reader.head(), result_reader.head()
    p, count = _logprobs(normed(exact), head), exact.shape[1] - 1
    found = []
    for path, x in variants.items():
        tied = config.tie_word_embeddings and path == "model.embed_tokens"
        kl, agreed = _compared(p, _logprobs(normed(x), quantized_head if tied else head))
        found.append(ModuleDistance(path, kl / count, agreed / count))
    if not config.tie_word_embeddings:
        kl, agreed = _compared(p, _logprobs(normed(exact), quantized_head))
        found.append(ModuleDistance("lm_head", kl / count, agreed / count))
    return found


def last_hidden(
    reader: LayerReader, tokens: Sequence[mx.array], told: Callable[[int], None] = lambda _: None
) -> Activations:
    """Return the normed hidden states, the head's inputs; `told` is called with the number of layers done."""
    rope = Rope(reader.config)
    table = reader.tensor("model.embed_tokens.weight")
    activations = [table[ids] for ids in tokens]
    mx.eval(activations)
    del table
    for index in range(reader.config.num_hidden_layers):
        told(index)
        activations = through(reader.block(index), activations, rope)
    told(reader.config.num_hidden_layers)
    norm = reader.tensor("model.norm.weight")
    return mapped(lambda x: mx.fast.rms_norm(x, norm, reader.config.rms_norm_eps), activations)


def _logprobs(hidden: mx.array, head: mx.array) -> mx.array:
    """Return log probabilities (L, V) of hidden states (1, L, D)."""
    return log_probabilities(hidden[0] @ head.T)


def _compared(p: mx.array, q: mx.array) -> tuple[float, float]:
    """Return sums over the predicted tokens: KL from p to q, agreement on the most likely token."""
    p, q = p[:-1], q[:-1]
    return float(np.array(kl_divergence(p, q).sum())), float(np.array(same_top(p, q).sum()))


def _loss(logprobs: mx.array, ids: mx.array) -> float:
    """Return the negative log-likelihood of the tokens after the first, summed."""
    return float(np.array(-token_logprobs(logprobs[:-1], ids[0, 1:]).sum()))
