"""The model against transformers' LlamaForCausalLM in float32, on random weights."""

from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from llama3_mlx.kv_cache import ModelCache, make_cache
from llama3_mlx.model.fused_projections import join_projections
from llama3_mlx.model.transformer import LlamaForCausalLM

from ..support.transformers_reference import llama3_rope, our_model, reference_logits, reference_model, small_config

CONFIGS: dict[str, dict[str, Any]] = {
    "one key head each": {"num_key_value_heads": 4},
    "three queries a key head": {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 144},
    "four queries a key head": {"num_attention_heads": 8, "num_key_value_heads": 2},
    "eight queries a key head": {"num_attention_heads": 8, "num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "head_dim 64": {"head_dim": 64, "rope_parameters": llama3_rope(32.0)},
    "head_dim 128": {"head_dim": 128, "rope_parameters": llama3_rope(8.0)},
    "linear scaling": {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "linear", "factor": 4.0}},
    "dynamic scaling": {
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "dynamic", "factor": 2.0},
        "max_position_embeddings": 16,
    },
}


def assert_close(ours: mx.array | np.ndarray, reference: np.ndarray) -> None:
    difference = np.abs(np.array(ours) - reference).max()
    assert difference <= 1e-4 * np.abs(reference).max()


@pytest.fixture(params=CONFIGS)
def models(request: pytest.FixtureRequest) -> tuple[Any, LlamaForCausalLM]:
    reference = reference_model(small_config(**CONFIGS[request.param]))
    return reference, our_model(reference)


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 320, (3, 40))


def test_logits_equal_transformers_in_a_batch(models: Any, tokens: np.ndarray) -> None:
    reference, model = models
    assert_close(model(mx.array(tokens)), reference_logits(reference, tokens))


def test_joined_projections_give_the_same_logits(models: Any, tokens: np.ndarray) -> None:
    reference, model = models
    join_projections(model)
    assert "qkv_proj" in model.model.layers[0].self_attn
    assert_close(model(mx.array(tokens)), reference_logits(reference, tokens))


@pytest.mark.parametrize("chunks", [[40], [1] * 40, [17, 1, 22], [39, 1]])
def test_cached_logits_equal_transformers_in_chunks(chunks: list[int], tokens: np.ndarray) -> None:
    reference = reference_model(small_config(rope_parameters=llama3_rope(8.0)))
    model, cache, start, parts = our_model(reference), make_cache(2), 0, []
    for length in chunks:
        parts.append(model(mx.array(tokens[:, start : start + length]), cache))
        start += length
    assert_close(mx.concatenate(parts, axis=1), reference_logits(reference, tokens))


@pytest.mark.parametrize(("factor", "head_dim"), [(8.0, 128), (32.0, 64), (32.0, 128)])
def test_llama3_scaling_holds_beyond_8192_positions(factor: float, head_dim: int) -> None:
    reference = reference_model(small_config(head_dim=head_dim, rope_parameters=llama3_rope(factor)))
    model, cache = our_model(reference), make_cache(2)
    tokens = np.random.default_rng(1).integers(0, 320, (1, 12))
    gap = 70000
    # Rotary attention sees only distances; a token at 0 and others from 70,000 on give it large ones.
    positions = np.concatenate([[0], np.arange(gap, gap + 11)])[None]
    expected = reference_logits(reference, tokens, positions)

    first = model(mx.array(tokens[:, :1]), cache)
    jump_to(cache, gap)
    rest = model(mx.array(tokens[:, 1:]), cache)
    assert_close(mx.concatenate([first, rest], axis=1), expected)


def jump_to(cache: ModelCache, position: int) -> None:
    """Make the next token stand at `position`, its cached place the one behind the first token."""
    plain_step = cache.step
    cache.step = lambda n_sequences, n_new: replace(plain_step(n_sequences, n_new), offset=position)  # type: ignore[method-assign]


def test_cache_trimmed_and_refilled_gives_the_uncached_logits(tokens: np.ndarray) -> None:
    model, cache = our_model(reference_model(small_config())), make_cache(2)
    model(mx.array(tokens), cache)
    for row in range(3):
        cache.trim(11, row)
    again = model(mx.array(tokens[:, 11:]), cache)
    assert_close(again, np.array(model(mx.array(tokens)))[:, 11:])


def test_writing_to_a_copied_cache_leaves_the_original_alone(tokens: np.ndarray) -> None:
    model, cache = our_model(reference_model(small_config())), make_cache(2)
    model(mx.array(tokens[:, :20]), cache)
    twin = cache.copy()
    model(mx.array(tokens[:, :7]), twin)
    rest = model(mx.array(tokens[:, 20:]), cache)
    assert_close(rest, np.array(model(mx.array(tokens)))[:, 20:])


def test_the_head_runs_only_where_it_is_called(tokens: np.ndarray) -> None:
    model = our_model(reference_model(small_config()))
    whole = np.array(model(mx.array(tokens)))
    last = model.head(model.hidden(mx.array(tokens))[:, -1])
    assert last.shape == (3, 320)
    assert_close(last, whole[:, -1])


def test_quantized_projections_join_without_changing_a_bit(tokens: np.ndarray) -> None:
    model = our_model(reference_model(small_config(head_dim=32)))
    nn.quantize(model, group_size=32, bits=4)
    apart = np.array(model(mx.array(tokens)))
    join_projections(model)
    np.testing.assert_allclose(np.array(model(mx.array(tokens))), apart, rtol=1e-5, atol=1e-5)
