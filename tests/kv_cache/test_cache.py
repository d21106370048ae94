"""Cache kinds against the model without a cache, and sequences of a batch against the same ones alone."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch

from llama3_mlx import RequestError
from llama3_mlx.kv_cache import CacheOptions, ModelCache
from llama3_mlx.model.transformer import LlamaForCausalLM

from ..support.transformers_reference import llama3_rope, our_model, reference_model, small_config

PLAIN = CacheOptions()
KINDS = [PLAIN, CacheOptions(kv_bits=8), CacheOptions(kv_bits=8, kv_start=24), CacheOptions(window=32, sinks=4)]
IDS = [kind.label for kind in KINDS]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return our_model(reference_model(small_config(head_dim=64, rope_parameters=llama3_rope(8.0))))


def random_ids(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 320, n)


def fed(model: LlamaForCausalLM, ids: np.ndarray, kind: CacheOptions, chunk: int = 1000) -> tuple[ModelCache, mx.array]:
    """Run `ids` in chunks; return the cache and the logits of the last position (V,)."""
    cache = model.make_cache(kind)
    for start in range(0, len(ids), chunk):
        logits = model(mx.array(ids[None, start : start + chunk]), cache)
    mx.eval(cache.arrays, logits)
    return cache, logits[0, -1]


def next_logits(model: LlamaForCausalLM, cache: ModelCache, tokens: list[int]) -> np.ndarray:
    """Run one token a sequence; return logits (B, V)."""
    return np.array(model(mx.array(tokens)[:, None], cache)[:, -1])


def close(a: Any, b: Any, tolerance: float = 1e-4) -> bool:
    return bool(np.abs(np.array(a) - np.array(b)).max() <= tolerance * max(1.0, np.abs(np.array(b)).max()))


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_sequences_of_a_batch_equal_those_alone(model: LlamaForCausalLM, kind: CacheOptions) -> None:
    lengths = [5, 40, 23, 1, 31]
    # What BLAS adds up in another order may round to the next of 8 bits.
    tolerance = 1e-4 if kind.kv_bits is None else 2e-3
    alone = [fed(model, random_ids(n, n), kind)[0] for n in lengths]
    batch = model.make_cache(kind)
    names: list[int] = []
    rng = np.random.default_rng(0)
    for step in range(24):
        if step % 3 == 0 and step // 3 < len(lengths):
            batch.append(alone[step // 3].copy())
            names.append(step // 3)
        if step in (14, 17):
            leaving = 1
            batch.pop(leaving)
            names[leaving] = names[-1]
            names.pop()
        tokens = [int(token) for token in rng.integers(0, 320, len(names))]
        together = next_logits(model, batch, tokens)
        for row, name in enumerate(names):
            expected = next_logits(model, alone[name], [tokens[row]])[0]
            assert close(together[row], expected, tolerance), (step, name)
    assert batch.lengths == [alone[name].lengths[0] for name in names]


@pytest.mark.parametrize("kind", KINDS[:3], ids=IDS[:3])
def test_several_tokens_a_sequence_equal_one_by_one_after_each_is_trimmed(
    model: LlamaForCausalLM, kind: CacheOptions
) -> None:
    """What speculation does: sequences of their own lengths take drafts, and go back to what was accepted."""
    batch, lengths, kept = model.make_cache(kind), [9, 30, 21], [1, 3, 0]
    for n in lengths:
        batch.append(fed(model, random_ids(n, n), kind)[0])
    drafts = random_ids(12, 5).reshape(3, 4)
    many = np.array(model(mx.array(drafts), batch))
    for row, keep in enumerate(kept):
        batch.trim(lengths[row] + keep, row)
    after = next_logits(model, batch, [7, 8, 9])
    for row, n in enumerate(lengths):
        cache, _ = fed(model, random_ids(n, n), kind)
        for at, token in enumerate(drafts[row]):
            assert close(next_logits(model, cache, [int(token)])[0], many[row, at])
        cache.trim(n + kept[row])
        assert close(next_logits(model, cache, [7 + row])[0], after[row])


@pytest.mark.parametrize("kind", KINDS, ids=IDS)
def test_chunks_of_any_length_give_the_same_logits(model: LlamaForCausalLM, kind: CacheOptions) -> None:
    ids = random_ids(75)
    _, whole = fed(model, ids, kind)
    for chunk in (1, 17, 40):
        assert close(fed(model, ids, kind, chunk)[1], whole), chunk


@pytest.mark.parametrize("sinks", [0, 4])
def test_a_window_is_its_tokens_at_the_first_positions(sinks: int) -> None:
    """In one layer, keys depend on their own token alone: transformers, given sinks and latest tokens as a text."""
    reference = reference_model(small_config(num_hidden_layers=1, rope_parameters=llama3_rope(8.0)))
    model, ids, window = our_model(reference), random_ids(90), 32
    shown = np.concatenate([ids[:sinks], ids[-(window - sinks) :]])
    with torch.no_grad():
        expected = reference(torch.tensor(shown[None])).logits[0, -1].numpy()
    for chunk in (1, 13, 90):
        assert close(fed(model, ids, CacheOptions(window=window, sinks=sinks), chunk)[1], expected), chunk


def test_a_window_keeps_its_size_for_ever(model: LlamaForCausalLM) -> None:
    kind = CacheOptions(window=48)
    small, large = fed(model, random_ids(60), kind)[0], fed(model, random_ids(500), kind)[0]
    assert small.nbytes == large.nbytes


def test_quantized_values_take_the_bytes_that_are_estimated(model: LlamaForCausalLM) -> None:
    config = model.config
    for bits in (4, 8):
        kind = CacheOptions(kv_bits=bits)
        cache, _ = fed(model, random_ids(250), kind)
        estimated = kind.bytes_per_token(config.num_hidden_layers, config.num_key_value_heads, config.head_dim, 4)
        positions = cache.layers[0].buffers[1].positions
        assert cache.nbytes == estimated * positions


def test_a_cache_saved_block_by_block_continues_as_if_never_saved(model: LlamaForCausalLM) -> None:
    for kind in KINDS:
        ids = random_ids(30)
        cache, _ = fed(model, ids, kind)
        restored = model.make_cache(kind)
        for start, stop in ((0, 8), (8, 24), (24, 30)):
            restored.extend([mx.array(np.array(a)) for a in cache.block(start, stop)], stop - start)
        for token in range(12):
            assert close(next_logits(model, restored, [token]), next_logits(model, cache, [token])), kind.label


def test_a_sequence_taken_out_of_a_batch_continues_alone(model: LlamaForCausalLM) -> None:
    for kind in KINDS:
        batch, alone = model.make_cache(kind), fed(model, random_ids(19, 1), kind)[0]
        batch.append(fed(model, random_ids(33), kind)[0])
        batch.append(alone.copy())
        taken = batch.take(1)
        next_logits(model, batch, [1, 2])
        assert close(next_logits(model, taken, [3]), next_logits(model, alone, [3])), kind.label


def test_a_small_batch_frees_the_memory_of_a_large_one(model: LlamaForCausalLM) -> None:
    batch = model.make_cache()
    for n in (600, *[3] * 8):
        batch.append(fed(model, random_ids(n), PLAIN)[0])
    large = batch.nbytes
    while len(batch.lengths) > 1:
        batch.pop(0)
    assert batch.nbytes * 8 <= large
    batch.pop(0)
    assert batch.nbytes == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kv_bits": 3}, "8, 4, not 3"),
        ({"kv_bits": 8, "window": 64}, "can't be combined"),
        ({"window": 15}, "at least 16"),
        ({"window": 20, "sinks": 16}, "at most 12"),
    ],
)
def test_kinds_that_can_not_be_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        CacheOptions(**settings)


def test_heads_that_no_group_divides_are_refused() -> None:
    model = our_model(reference_model(small_config(head_dim=48)))
    with pytest.raises(RequestError, match="heads of 48 values"):
        model.make_cache(CacheOptions(kv_bits=8))
