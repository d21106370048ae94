"""Adapters in mlx-lm's layout: the same logits here and there, and what is refused."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file

from llama3_mlx import CheckpointError, ConfigError
from llama3_mlx.finetune.adapters import load_adapter
from llama3_mlx.weights import load_model

from .tiny_model import save_tiny

SMALL: dict[str, Any] = {"vocab_size": 512, "eos_token_id": [1], "bos_token_id": 0}


def save_adapter(folder: Path, *, rank: int = 4, n_in: int = 64, n_out: int = 128, **config: Any) -> Path:
    """An adapter on the queries of both layers."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    weights = {}
    for layer in range(2):
        path = f"model.layers.{layer}.self_attn.q_proj"
        weights[f"{path}.lora_a"] = rng.normal(0, 0.3, (n_in, rank)).astype(np.float32)
        weights[f"{path}.lora_b"] = rng.normal(0, 0.3, (rank, n_out)).astype(np.float32)
    save_file(weights, folder / "adapters.safetensors")
    parameters = {"rank": rank, "scale": 3.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
    values = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": parameters, **config}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("bits", [None, 4])
def test_an_adapter_gives_the_logits_of_mlx_lm(tmp_path: Path, bits: int | None) -> None:
    import mlx_lm.utils
    from mlx_lm.tuner.utils import load_adapters

    from llama3_mlx.convert import convert

    source = save_tiny(tmp_path / "source", **SMALL)
    convert(source, tmp_path / "model", bits=bits)
    adapter = save_adapter(tmp_path / "adapter")
    theirs, _ = mlx_lm.utils.load_model(tmp_path / "model")
    theirs.set_dtype(mx.float32)
    load_adapters(theirs, str(adapter))
    theirs.eval()
    model = load_model(tmp_path / "model", join=False)
    tokens = mx.array([[3, 5, 300, 7]])
    base = model(tokens)
    load_adapter(model, adapter)
    expected, ours = theirs(tokens), model(tokens)
    assert (mx.abs(ours - base).max() > 0.01).item()
    assert (mx.abs(expected - ours).max() < 1e-4 * mx.abs(expected).max()).item()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_in": 32}, r"belongs to another model: model.layers.0.self_attn.q_proj is \[128, 64\]"),
        ({"peft_type": "LORA"}, "is a PEFT adapter"),
        ({"fine_tune_type": "magic"}, "'magic'"),
        ({"lora_parameters": {"scale": "big"}}, "scale must be a number, not 'big'"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    model = load_model(save_tiny(tmp_path / "source", **SMALL), join=False)
    with pytest.raises((CheckpointError, ConfigError), match=words):
        load_adapter(model, save_adapter(tmp_path / "adapter", **changes))


def test_half_an_adapter_is_refused(tmp_path: Path) -> None:
    model = load_model(save_tiny(tmp_path / "source", **SMALL), join=False)
    adapter = save_adapter(tmp_path / "adapter")
    save_file({"model.layers.0.self_attn.q_proj.lora_a": np.ones((64, 4))}, adapter / "adapters.safetensors")
    with pytest.raises(CheckpointError, match="no whole LoRA pairs for: model"):
        load_adapter(model, adapter)
    (adapter / "adapters.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is it the folder of an adapter"):
        load_adapter(model, adapter)
