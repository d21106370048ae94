"""Draft heads in both public forms, written by torch and by safetensors, and what is refused."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from llama3_mlx import ConfigError, ConversionError, Llama, Llama3MLXError
from llama3_mlx.checkpoint.folder import load_config
from llama3_mlx.cli import main
from llama3_mlx.convert import convert
from llama3_mlx.model.config import ModelConfig
from llama3_mlx.speculation.eagle_config import HeadConfig
from llama3_mlx.speculation.eagle_head import EagleHead
from llama3_mlx.speculation.eagle_loading import load_head

from ..support.eagle import head_arrays, head_values, random_head, save_flat_head, save_head
from ..support.transformers_reference import small_config

DEPTHS: dict[str, Any] = {"eagle_aux_hidden_state_layer_ids": [0, 1, 2]}


def target(**changes: Any) -> ModelConfig:
    return ModelConfig.from_dict(small_config(**changes).to_dict())


def scattered_head(values: dict[str, Any]) -> EagleHead:
    """A head whose tokens are every fifth but one of the target's."""
    head = random_head(HeadConfig.from_dict(values))
    head.map_tokens(mx.array([token for token in range(320) if token % 5 != 2], mx.int32))
    return head


def logits(head: EagleHead) -> np.ndarray:
    rng = np.random.default_rng(0)
    states = mx.array(rng.standard_normal((1, 7, 192)).astype(np.float32))
    embedded = mx.array(rng.standard_normal((1, 7, 64)).astype(np.float32))
    return np.array(head.over_vocabulary(head.head(head(embedded, head.fuse(states), head.make_cache()))[0]))


@pytest.mark.parametrize("save", [save_head, save_flat_head])
@pytest.mark.parametrize("options", [{}, {"norm_before_residual": True, "norm_before_fc": True, "norm_output": True}])
def test_both_public_forms_load(tmp_path: Path, save: Callable[..., Path], options: dict[str, Any]) -> None:
    values = head_values(**DEPTHS, **options)
    head = scattered_head(values)
    loaded = load_head(save(tmp_path / "head", head, values), target())
    assert loaded.config.depths == (0, 1, 2)
    assert not loaded.config.own_embedding
    assert np.array_equal(logits(loaded), logits(head))
    assert HeadConfig.from_dict(loaded.config.to_dict()).norm_output == bool(options)


def test_a_head_drafts_for_a_model_by_folder(tmp_path: Path, tiny_folder: Path) -> None:
    values = head_values(layer={"vocab_size": 128256}, **DEPTHS)
    folder = save_flat_head(tmp_path / "head", random_head(HeadConfig.from_dict(values)), values)
    with Llama.load(tiny_folder, draft=folder) as llama, Llama.load(tiny_folder) as plain:
        settings: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}
        expected = plain.generate("A prompt", speculate=False, **settings)
        assert llama.generate("A prompt", **settings).token_ids == expected.token_ids


def test_a_head_given_as_the_model_is_named_as_one(tmp_path: Path) -> None:
    values = head_values()
    with pytest.raises(ConfigError, match="is a draft head"):
        load_config(save_flat_head(tmp_path / "head", scattered_head(values), values))


@pytest.mark.parametrize("save", [save_head, save_flat_head])
def test_a_converted_head_is_the_same_head(tmp_path: Path, save: Callable[..., Path]) -> None:
    values = head_values(**DEPTHS)
    head = scattered_head(values)
    source = save(tmp_path / "head", head, values)
    convert(source, tmp_path / "plain")
    assert np.array_equal(logits(load_head(tmp_path / "plain", target())), logits(head))
    for bits, error in ((8, 0.02), (4, 0.3)):
        report = convert(source, tmp_path / f"q{bits}", bits=bits, group_size=32)
        packed = load_head(tmp_path / f"q{bits}", target())
        finite = np.isfinite(logits(head))
        difference = np.abs(logits(packed)[finite] - logits(head)[finite])
        assert isinstance(packed.fc, nn.QuantizedLinear)
        assert packed.fc.bits == bits
        assert difference.mean() < error
        # MLX's own: a 16-bit scale and bias for each group of 32.
        assert bits + 1 <= report.bits_per_weight < bits + 3
    with pytest.raises(ConversionError, match="quantized already"):
        convert(tmp_path / "q8", tmp_path / "again", bits=4)
    with pytest.raises(ConversionError, match="leave out quality"):
        convert(source, tmp_path / "again", bits=4, quality="rtn")


def test_info_shows_a_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = head_values(**DEPTHS, speculators_config={"verifier": {"name_or_path": "owner/model"}})
    folder = save_head(tmp_path / "head", scattered_head(values), values)
    assert main(["info", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "owner/model" in shown
    assert "256 tokens" in shown
    assert main(["info", "--json", str(folder)]) == 0
    assert json.loads(capsys.readouterr().out)["target_depths"] == [0, 1, 2]


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def spoil(kind: str, folder: Path) -> tuple[Path, ModelConfig]:
    """Return the folder of a head with a fault, and the config of the model that it is given to."""
    values, model = head_values(**DEPTHS), target()
    head = scattered_head(values)
    arrays = head_arrays(head)
    match kind:
        case "other width":
            model = target(hidden_size=128)
        case "other vocabulary":
            model = target(vocab_size=512)
        case "not as deep":
            values = head_values()
        case "no map":
            del arrays["d2t"]
        case "wrong map":
            arrays["d2t"] = mx.zeros_like(arrays["d2t"])
        case "beyond the map":
            arrays["d2t"] = arrays["d2t"] + 200
        case "shuffled":
            q, o = (f"layers.0.self_attn.{name}.weight" for name in ("q_proj", "o_proj"))
            arrays[q], arrays[o] = arrays[o], arrays[q]
        case "no layer":
            arrays = {name: array for name, array in arrays.items() if "mlp" not in name}
        case "variant":
            values["fc_norm"] = True
        case "sliding":
            values["transformer_layer_config"]["layer_types"] = ["sliding_attention"]
        case "first EAGLE":
            values["eagle_config"] = {"use_aux_hidden_state": False}
        case "two layers":
            values["transformer_layer_config"]["num_hidden_layers"] = 2
        case "another family":
            values["transformer_layer_config"]["model_type"] = "qwen3"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    if kind == "code":
        with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"fc.weight": Code()}))
    elif kind != "no weights":
        mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    return folder, model


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("other width", "is for another model: it reads hidden states of 64, and the model's have 128"),
        ("other vocabulary", "is for a vocabulary of 320, and the model has 512"),
        ("not as deep", "at depths 2, 1, -1, and the model has 2 layers"),
        ("no map", "d2t, the map from the draft head's 256 tokens to the model's 320, is missing"),
        ("wrong map", "d2t and t2d don't name the same tokens"),
        ("beyond the map", "d2t doesn't give each of 256 tokens"),
        ("shuffled", r"q_proj.weight is \[64, 64\] and should be \[64, 128\]"),
        ("no layer", "missing: layers.0.mlp.gate_proj.weight"),
        ("variant", "draft heads with fc_norm aren't supported"),
        ("sliding", "layer_types with sliding_attention: that is another computation"),
        ("first EAGLE", "draft heads with use_aux_hidden_state false aren't supported"),
        ("two layers", "has one layer, not 2"),
        ("another family", "layer of type 'qwen3'"),
        ("code", "is refused: its pickle asks for builtins.print"),
        ("no weights", "has no weights of a draft head"),
    ],
)
def test_what_is_no_head_of_the_model_is_one_line(tmp_path: Path, kind: str, words: str) -> None:
    folder, model = spoil(kind, tmp_path / "head")
    with pytest.raises(Llama3MLXError, match=words) as caught:
        load_head(folder, model)
    assert "\n" not in str(caught.value)
