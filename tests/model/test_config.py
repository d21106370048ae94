"""config.json in both of transformers' forms, and what is refused."""

import copy
from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from llama3_mlx.errors import ConfigError
from llama3_mlx.model.config import ModelConfig
from llama3_mlx.model.rope import RopeScaling, rope_periods

from ..support.transformers_reference import llama3_rope

LLAMA_3_2_1B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
}


def test_both_forms_of_transformers_give_the_same_config() -> None:
    newer = LlamaConfig(**copy.deepcopy(LLAMA_3_2_1B)).to_dict()
    assert "rope_parameters" in newer
    assert "rope_theta" not in newer
    assert "dtype" in newer
    assert ModelConfig.from_dict(newer) == ModelConfig.from_dict(LLAMA_3_2_1B)


def test_what_is_written_is_the_older_form_and_reads_back_the_same() -> None:
    config = ModelConfig.from_dict(LLAMA_3_2_1B)
    written = config.to_dict()
    assert {name: written[name] for name in LLAMA_3_2_1B} == LLAMA_3_2_1B
    assert ModelConfig.from_dict(written) == config


def test_absent_fields_default_as_in_transformers() -> None:
    few = {name: LLAMA_3_2_1B[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    few |= {"num_attention_heads": 32, "vocab_size": 1000, "model_type": "llama"}
    config, reference = ModelConfig.from_dict(few), LlamaConfig(**few)
    for name in ("num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings"):
        assert getattr(config, name) == getattr(reference, name), name
    assert config.rope_theta == reference.rope_parameters["rope_theta"]


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_periods_equal_transformers(head_dim: int, factor: float) -> None:
    reference = LlamaConfig(head_dim=head_dim, rope_parameters=llama3_rope(factor), max_position_embeddings=131072)
    frequencies, attention_factor = ROPE_INIT_FUNCTIONS["llama3"](reference, "cpu")
    assert attention_factor == 1.0
    periods = rope_periods(head_dim, 500000.0, RopeScaling("llama3", factor))
    np.testing.assert_allclose(1 / np.array(periods), frequencies.numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mistral"}, "mistral"),
        ({"model_type": None}, "None"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "factor"),
        ({"rope_scaling": [1]}, "object"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive whole number, not 0"),
        ({"num_hidden_layers": "16"}, "not '16'"),
        ({"num_key_value_heads": 5}, "not a multiple"),
        ({"head_dim": 63}, "even"),
        ({"rms_norm_eps": -1}, "rms_norm_eps"),
        ({"eos_token_id": "x"}, "whole numbers"),
        ({"tie_word_embeddings": "yes"}, "true or false"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization": {"group_size": 64, "bits": 7}}, "not 7"),
        ({"quantization": {"group_size": 48, "bits": 4}}, "not 48"),
        ({"quantization": {"group_size": 64, "bits": 4, "mode": "zip"}}, "zip"),
    ],
)
def test_what_is_not_a_llama_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ModelConfig.from_dict({**LLAMA_3_2_1B, **changes})


def test_all_bad_fields_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_dict({**LLAMA_3_2_1B, "vocab_size": -1, "rms_norm_eps": 0, "head_dim": 7})
    assert all(name in str(caught.value) for name in ("vocab_size", "rms_norm_eps", "head_dim"))


def test_exceptions_of_a_mixed_quantization_are_read_and_written() -> None:
    entry = {
        "group_size": 64,
        "bits": 4,
        "mode": "affine",
        "lm_head": {"group_size": None, "bits": 6},
        "model.embed_tokens": False,
    }
    quantization = ModelConfig.from_dict({**LLAMA_3_2_1B, "quantization": entry}).quantization
    assert quantization is not None
    head = quantization.scheme_for("lm_head")
    assert head is not None
    assert (head.bits, head.group_size) == (6, 64)
    assert quantization.scheme_for("model.embed_tokens") is None
    assert quantization.to_dict()["lm_head"] == {"group_size": 64, "bits": 6, "mode": "affine"}
    assert quantization.to_dict()["model.embed_tokens"] is False
