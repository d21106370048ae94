"""Adapters that mean something else than they seem to: made by PEFT itself, or folders that contradict themselves."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llama3_mlx.adapters.adapter import Adapter
from llama3_mlx.adapters.adapter_set import load_adapter
from llama3_mlx.adapters.merging import merged
from llama3_mlx.adapters.mlx_lm_format import save_adapter
from llama3_mlx.adapters.peft_format import save_peft
from llama3_mlx.errors import AdapterError
from llama3_mlx.model.transformer import LlamaForCausalLM

from ..support.finetune_fixtures import furthest, small_model
from ..support.transformers_reference import reference_model, small_config
from .test_adapters import random_adapter

TOKENS = mx.array([[3, 5, 300, 7]])
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def saved_by_peft(folder: Path, options: dict[str, Any], **config: Any) -> LlamaForCausalLM:
    """Save PEFT's adapter of a model, and return that model as ours."""
    from peft import LoraConfig, get_peft_model

    from ..support.transformers_reference import our_model

    reference = reference_model(small_config(**config))
    model = our_model(reference)
    peft = get_peft_model(reference, LoraConfig(**{"r": 4, "target_modules": ["q_proj"], **options}))
    peft.save_pretrained(str(folder))
    return model


@pytest.mark.parametrize(
    ("options", "config", "words"),
    [
        ({"init_lora_weights": "pissa"}, {}, "'pissa', on a base whose weights that changed"),
        ({"init_lora_weights": "olora"}, {}, "'olora', on a base"),
        ({"layer_replication": [[0, 2], [1, 2]]}, {}, "uses layer_replication"),
        (
            {"modules_to_save": ["embed_tokens"]},
            {"tie_word_embeddings": True},
            r"embedding alone \(model.embed_tokens\)",
        ),
        ({"modules_to_save": ["lm_head"]}, {"tie_word_embeddings": True}, r"head alone \(lm_head\)"),
        ({"trainable_token_indices": [3, 4]}, {}, "uses trainable_token_indices"),
        ({"lora_bias": True}, {}, "uses lora_bias"),
        ({"target_modules": ["embed_tokens"]}, {"tie_word_embeddings": True}, "tied to its embedding: merge"),
    ],
)
def test_what_peft_means_otherwise_is_refused_by_name(
    options: dict[str, Any], config: dict[str, Any], words: str, tmp_path: Path
) -> None:
    model = saved_by_peft(tmp_path, options, **config)
    with pytest.raises(AdapterError, match=words):
        load_adapter(model, tmp_path)


@pytest.mark.parametrize("options", [{"modules_to_save": ["embed_tokens", "lm_head"]}, {"target_modules": ["lm_head"]}])
def test_an_adapter_with_tokens_that_the_model_lacks_is_refused_with_both_numbers(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """Made by PEFT on transformers' model after `resize_token_embeddings`."""
    from peft import LoraConfig, get_peft_model

    from ..support.transformers_reference import our_model

    reference = reference_model(small_config())
    model = our_model(reference)
    rows = model.config.vocab_size
    reference.resize_token_embeddings(rows + 2, mean_resizing=False)
    peft = get_peft_model(reference, LoraConfig(**{"r": 4, "target_modules": ["q_proj"], **options}))
    peft.save_pretrained(str(tmp_path))
    with pytest.raises(AdapterError, match=f"{rows + 2}.* the model's .*{rows}"):
        load_adapter(model, tmp_path)


def test_an_unknown_key_of_peft_is_refused_only_where_it_says_something(tmp_path: Path) -> None:
    model = saved_by_peft(tmp_path, {"init_lora_weights": "gaussian"})
    path = tmp_path / "adapter_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "use_magic": None}))
    load_adapter(model, tmp_path)
    path.write_text(json.dumps({**values, "use_magic": True}))
    with pytest.raises(AdapterError, match="uses use_magic"):
        load_adapter(small_model(), tmp_path)


def test_a_fully_trained_tied_embedding_is_not_exported_to_peft(tmp_path: Path) -> None:
    model = small_model(tie_word_embeddings=True)
    adapter = Adapter(
        random_adapter(model, 0, ("q_proj",)).parts, {"model.embed_tokens.weight": model.model.embed_tokens.weight}
    )
    with pytest.raises(AdapterError, match="PEFT changes the embedding alone"):
        save_peft(tmp_path, adapter, model.config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tensor": "model.norm.weight"}, "has model.norm.weight, which would replace the base's"),
        ({"kind": "dora"}, "fine_tune_type is dora, and .* has no magnitude"),
        ({"magnitude": True}, "fine_tune_type is lora, and .* has a magnitude"),
    ],
)
def test_a_folder_that_contradicts_itself_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    model = small_model()
    save_adapter(tmp_path, random_adapter(model, 0), model.config)
    tensors = load_file(tmp_path / "adapters.safetensors")
    if "tensor" in change:
        tensors[change["tensor"]] = np.ones(64, np.float32)
    if "magnitude" in change:
        tensors |= {name.replace("lora_a", "m"): np.ones(tensors[name.replace("lora_a", "lora_b")].shape[1], np.float32)
                    for name in list(tensors) if name.endswith("lora_a")}  # fmt: skip
    save_file(tensors, tmp_path / "adapters.safetensors")
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fine_tune_type": change.get("kind", "lora")}))
    with pytest.raises(AdapterError, match=words):
        load_adapter(model, tmp_path)


def test_fully_trained_modules_beside_low_rank_ones_are_read_back(tmp_path: Path) -> None:
    model = small_model()
    norm = mx.full(model.model.norm.weight.shape, 0.5)
    adapter = Adapter(random_adapter(model, 0, ("q_proj",)).parts, {"model.norm.weight": norm})
    save_adapter(tmp_path, adapter, model.config)
    load_adapter(model, tmp_path)
    assert mx.array_equal(model.model.norm.chosen().weight, norm)


def test_merged_adapters_have_the_effect_of_the_mixture(tmp_path: Path) -> None:
    from llama3_mlx.adapters.adapter_set import AdapterSet

    model = small_model()
    one, two = random_adapter(model, 0), random_adapter(model, 1, ("q_proj", "down_proj"))
    adapters = AdapterSet(model)
    adapters.add("one", one)
    adapters.add("two", two)
    adapters.select({"one": 0.5, "two": -1.5})
    expected = model(TOKENS)
    adapters.clear()
    save_adapter(tmp_path, merged([(one, 0.5), (two, -1.5)]), model.config)
    load_adapter(model, tmp_path)
    assert furthest(model(TOKENS), expected) < 1e-4
    with pytest.raises(AdapterError, match="can't be merged"):
        merged([(Adapter({}, {"model.norm.weight": mx.ones(64)}), 1.0)])
