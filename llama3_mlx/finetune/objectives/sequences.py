"""Batches of complete sequences, whose log-probabilities are what preference and policy losses look at."""

import hashlib
from collections.abc import Mapping, Sequence

import mlx.core as mx
import numpy as np

from ...model.transformer import LlamaForCausalLM
from ..data.encoding import Example
from ..data.packing import make_batch, pack_examples
from ..kernels.chunked_loss import head_function, head_token_losses
from ..kernels.forward import hidden_states

Arrays = Mapping[str, mx.array]


def sequence_arrays(examples: Sequence[Example], row: int, chunk: int) -> dict[str, np.ndarray]:
    """Return packed rows of the examples, with `owners` (n,): which example each target position belongs to."""
    lengths = [example.length for example in examples]
    rows = pack_examples(lengths, row, range(len(examples)))
    batch = make_batch(examples, rows, row, chunk)
    counts = [examples[number].n_targets for numbers in rows for number in numbers]
    owners = np.repeat([number for numbers in rows for number in numbers], counts)
    filling = len(batch.weights) - len(owners)
    return {
        "tokens": batch.tokens,
        "segments": batch.segments,
        "positions": batch.positions,
        "targets": batch.targets,
        "weights": batch.weights,
        "owners": np.concatenate([owners, np.zeros(filling)]).astype(np.int32),
    }


def target_logprobs(
    model: LlamaForCausalLM, arrays: Arrays, *, longest: int, keep: str, chunk: int, temperature: float = 1.0
) -> mx.array:
    """Return log p of every target token, (n,) float32; 0 where a position is filling."""
    h = hidden_states(model, arrays["tokens"], arrays["segments"], longest=longest, keep=keep)
    h = h.reshape(-1, h.shape[-1])[arrays["positions"]] * (1 / temperature)
    head, parameters = head_function(model)
    return -head_token_losses(head, parameters, h, arrays["targets"], chunk=chunk) * arrays["weights"]


def summed_by_owner(values: mx.array, owners: mx.array, n: int) -> mx.array:
    """Return the sum of values (tokens,) for each of n sequences."""
    return mx.zeros(n, values.dtype).at[owners].add(values)


def sequences_fingerprint(examples: Sequence[Example]) -> str:
    """Return a digest of token ids and marks."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.ids.tobytes())
        digest.update(np.packbits(example.is_target).tobytes() + len(example.ids).to_bytes(4, "little"))
    return digest.hexdigest()
