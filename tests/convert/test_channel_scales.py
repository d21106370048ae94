"""Folders whose channels were equalized: the scales beside the weights, undone, carried over and put together."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from llama3_mlx import CheckpointError, ConversionError, Llama
from llama3_mlx.convert import convert, measure, verify
from llama3_mlx.convert.quantization import corpus

from ..support.quality_fixtures import save_uneven

NAME = "channel_scales.json"
BIASED = {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save_uneven(tmp_path / "source", **BIASED)


@pytest.fixture
def fast(source: Path, tmp_path: Path) -> Path:
    convert(source, tmp_path / "fast", bits=8, quality="fast")
    return tmp_path / "fast"


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {name: w.astype(np.float32) for name, w in load_file(folder / "model.safetensors").items()}


def furthest(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The largest error of a tensor of `one`, over its norm in `other`."""
    assert one.keys() == other.keys()
    return max(float(np.linalg.norm(one[name] - w) / np.linalg.norm(w)) for name, w in other.items())


@pytest.mark.parametrize(("quality", "changes"), [("fast", {}), ("fast", BIASED), ("distilled", BIASED)])
def test_what_is_exported_has_the_source_s_channels(
    tmp_path: Path, quality: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "WINDOW", 32)
    text = tmp_path / "text.txt"
    text.write_text("".join(np.random.default_rng(3).choice(list("abcdefghijklmnop"), 320)))
    source = save_uneven(tmp_path / "source", **changes)
    given: dict[str, Any] = {} if quality == "fast" else {"calibration": text}
    convert(source, tmp_path / "made", bits=8, quality=quality, **given)
    convert(tmp_path / "made", tmp_path / "back", to="hf", dtype="float32", verify=True)
    ours, expected = weights(tmp_path / "back"), weights(source)
    assert furthest(ours, expected) < 0.02
    if quality != "distilled":
        assert all(np.allclose(ours[name], expected[name], rtol=1e-6) for name in expected if "layernorm" in name)
    convert(tmp_path / "made", tmp_path / "out.gguf", gguf_type="f32", verify=True)
    tensors = {tensor.name: np.asarray(tensor.data) for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    names = {"attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_up": "mlp.up_proj"}
    for theirs, name in names.items():
        np.testing.assert_allclose(tensors[f"blk.1.{theirs}.weight"], ours[f"model.layers.1.{name}.weight"], atol=1e-6)
    assert not (tmp_path / "back" / NAME).exists()
    assert "channel_scales" not in json.loads((tmp_path / "back" / "config.json").read_text())


def test_transformers_finds_the_source_s_function_in_an_export(source: Path, fast: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    convert(fast, tmp_path / "back", to="hf", dtype="float32")
    tokens = torch.from_numpy(np.random.default_rng(0).integers(64, 80, (1, 24)))
    back, expected = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens).logits.detach().numpy()
        for folder in (tmp_path / "back", source)
    )
    assert np.linalg.norm(back - expected) < 0.05 * np.linalg.norm(expected)


def test_the_scales_are_no_weights_to_those_who_take_every_safetensors_file(fast: Path) -> None:
    assert [path.name for path in fast.glob("*.safetensors")] == ["model.safetensors"]
    assert (fast / NAME).exists()


def test_without_equalization_there_are_no_scales(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "rtn", bits=8, quality="rtn")
    assert not (tmp_path / "rtn" / NAME).exists()
    assert "channel_scales" not in json.loads((tmp_path / "rtn" / "config.json").read_text())


@pytest.mark.parametrize("settings", [{"bits": 6}, {"dequantize": True, "dtype": "float32"}], ids=["bits", "whole"])
def test_scales_are_carried_over(source: Path, fast: Path, tmp_path: Path, settings: Any) -> None:
    convert(fast, tmp_path / "again", **settings, verify=True)
    assert (tmp_path / "again" / NAME).read_bytes() == (fast / NAME).read_bytes()
    convert(tmp_path / "again", tmp_path / "back", to="hf", dtype="float32")
    assert furthest(weights(tmp_path / "back"), weights(source)) < 0.1


def test_channels_equalized_twice_come_back(source: Path, fast: Path, tmp_path: Path) -> None:
    convert(fast, tmp_path / "twice", bits=8, quality="fast")
    assert (tmp_path / "twice" / NAME).read_bytes() != (fast / NAME).read_bytes()
    convert(tmp_path / "twice", tmp_path / "back", to="hf", dtype="float32")
    assert furthest(weights(tmp_path / "back"), weights(source)) < 0.05


def test_a_folder_is_compared_with_its_source_in_the_same_channels(source: Path, fast: Path, tmp_path: Path) -> None:
    worst = verify(fast, source).worst
    assert worst is not None
    assert worst.relative_error < 0.02
    convert(source, tmp_path / "rtn", bits=8, quality="rtn")
    worst = verify(tmp_path / "rtn", fast).worst
    assert worst is not None
    assert worst.relative_error < 0.02


def test_lost_and_damaged_scales_are_noticed_where_they_are_needed(fast: Path, tmp_path: Path) -> None:
    values = json.loads((fast / NAME).read_text())
    values["layers"][0]["mlp"] = values["layers"][1]["mlp"]
    (fast / NAME).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="damaged or of another model"):
        verify(fast)
    values["head"] = values["head"][:-8]
    (fast / NAME).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="head must be 128 positive numbers"):
        convert(fast, tmp_path / "back", to="hf")
    (fast / NAME).unlink()
    with pytest.raises(ConversionError, match=r"lacks channel_scales\.json, .*: put the file .* or choose quality rtn"):
        convert(fast, tmp_path / "back", bits=4, quality="fast")
    with Llama.load(fast) as llama:
        assert llama.generate([64, 65], max_tokens=1)


def test_a_folder_that_mlx_lm_dequantized_goes_through_without_its_scales(
    source: Path, fast: Path, tmp_path: Path
) -> None:
    """mlx-lm keeps config.json's entry and leaves the file behind."""
    from mlx_lm.convert import convert as mlx_lm_convert

    mlx_lm_convert(hf_path=str(fast), mlx_path=str(tmp_path / "plain"), dequantize=True, dtype="float32")
    digest = json.loads((fast / "config.json").read_text())["channel_scales"]
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["channel_scales"] == digest
    report = convert(tmp_path / "plain", tmp_path / "again", bits=8, verify=True)
    assert report.quantizer == "round-to-nearest"
    assert any(note.startswith("channel_scales.json, which config.json names, is missing") for note in report.notes)
    # Adapters of the original must not be taken for ones that fit.
    assert json.loads((tmp_path / "again" / "config.json").read_text())["channel_scales"] == digest
    convert(tmp_path / "plain", tmp_path / "hf", to="hf")
    ours, theirs = weights(tmp_path / "hf"), weights(tmp_path / "plain")
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert measure(tmp_path / "again", tmp_path / "plain")["kl"] < 0.01
    # With the file put beside the weights everything is as before.
    (tmp_path / "plain" / NAME).write_bytes((fast / NAME).read_bytes())
    convert(tmp_path / "plain", tmp_path / "back", to="hf", dtype="float32")
    assert furthest(weights(tmp_path / "back"), weights(source)) < 0.1
