"""The EAGLE-3 draft head against a derivation in PyTorch from transformers' Llama parts, and the target's taps."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from llama3_mlx.model.feature_tap import FeatureTap
from llama3_mlx.speculation.eagle_config import HeadConfig

from ..support.eagle import head_config, random_head, reference_layer
from ..support.transformers_reference import our_model, reference_model, small_config


def reference_norm(ours: Any) -> LlamaRMSNorm:
    norm = LlamaRMSNorm(ours.weight.shape[0], eps=1e-5)
    norm.load_state_dict({"weight": torch.from_numpy(np.array(ours.weight))})
    return norm


@pytest.mark.parametrize(
    ("before", "options"), [(False, {}), (True, {}), (True, {"norm_before_fc": True, "norm_output": True})]
)
def test_logits_of_a_random_head_are_those_of_transformers_parts(before: bool, options: dict[str, bool]) -> None:
    """The options are those of EAGLE 3.1: a norm before `fc`, and the normed output as the next feature."""
    head = random_head(head_config(norm_before_residual=before, **options))
    rng = np.random.default_rng(0)
    states = rng.standard_normal((1, 11, 3 * 64)).astype(np.float32)
    embedded = rng.standard_normal((1, 11, 64)).astype(np.float32)
    with torch.no_grad():
        fused = torch.from_numpy(states)
        if options:
            fused = reference_norm(head.input_norm)(fused)
        features = fused @ torch.from_numpy(np.array(head.fc.weight)).T
        h = reference_layer(head, torch.from_numpy(embedded), features, before)
        normed = reference_norm(head.norm)(h)
        expected = (normed @ torch.from_numpy(np.array(head.lm_head.weight)).T).numpy()
    following = head(mx.array(embedded), head.fuse(mx.array(states)), head.make_cache())
    assert np.abs(np.array(following) - (normed if options else h).numpy()).max() < 1e-4
    whole = head.head(following)
    assert np.abs(np.array(whole) - expected).max() < 1e-4
    cache, pieces = head.make_cache(), []
    for part in (slice(0, 4), slice(4, 5), slice(5, 11)):
        pieces.append(head.head(head(mx.array(embedded[:, part]), head.fuse(mx.array(states[:, part])), cache)))
    assert np.abs(np.array(mx.concatenate(pieces, axis=1)) - expected).max() < 1e-4


def test_a_tap_gives_transformers_hidden_states_also_of_a_pass_in_pieces() -> None:
    reference = reference_model(small_config(num_hidden_layers=4))
    tokens = np.random.default_rng(1).integers(0, 320, (2, 9))
    with torch.no_grad():
        states = reference.model(torch.from_numpy(tokens), output_hidden_states=True).hidden_states
    expected = np.concatenate([states[depth].numpy() for depth in (0, 1, 3)], axis=-1)
    model, tap = our_model(reference), FeatureTap((0, 1, 3))
    h = model.hidden(mx.array(tokens), tap=tap)
    assert np.abs(np.array(tap.take()) - expected).max() < 1e-4
    assert np.abs(np.array(h) - states[-1].numpy()).max() < 1e-4
    cache = model.make_cache()
    model.hidden(mx.array(tokens[:, :5]), cache, tap=tap)
    model.hidden(mx.array(tokens[:, 5:]), cache, tap=tap)
    assert np.abs(np.array(tap.take()) - expected).max() < 1e-4


def test_logits_go_to_the_targets_tokens() -> None:
    head = random_head(head_config())
    assert head.token_ids is not None
    logits = mx.random.normal((1, head.config.draft_vocab_size))
    full = np.array(head.over_vocabulary(logits))
    ids = np.array(head.token_ids)
    assert np.array_equal(full[0, ids], np.array(logits)[0])
    assert np.isneginf(np.delete(full, ids, axis=1)).all()


def test_the_target_decides_the_depths_where_the_head_does_not() -> None:
    assert HeadConfig.from_dict(head_config().to_dict()).depths_in(32) == (2, 16, 29)
    assert head_config(eagle_aux_hidden_state_layer_ids=[1, 2, 3]).depths_in(4) == (1, 2, 3)
    # sglang's `eagle_config` counts outputs of layers.
    assert head_config(eagle_config={"eagle_aux_hidden_state_layer_ids": [1, 15, 28]}).depths_in(32) == (2, 16, 29)
