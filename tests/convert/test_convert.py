"""Conversion of safetensors: against mlx-lm, against an independent reading, against bad input."""

import errno
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llama3_mlx import ConfigError, ConversionError, Llama3MLXError
from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.convert import convert
from llama3_mlx.convert import plan as plan_module

from ..support.tiny_model import CONFIG, save_tiny, tiny_weights

SMALL: dict[str, Any] = {"vocab_size": 512, "eos_token_id": [1], "bos_token_id": 0}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "source", **SMALL)


def leftovers(folder: Path, *known: str) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in known)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_four_bits_are_the_same_bytes_as_mlx_lms(tmp_path: Path, dtype: str) -> None:
    import mlx_lm.utils

    source = save_tiny(tmp_path / "source", torch_dtype=dtype, **SMALL)
    model, config = mlx_lm.utils.load_model(source, lazy=True)
    model, config = mlx_lm.utils.quantize_model(model, config, group_size=64, bits=4)
    mlx_lm.utils.save_model(tmp_path / "theirs", model)
    mlx_lm.utils.save_config(config, config_path=tmp_path / "theirs" / "config.json")

    convert(source, tmp_path / "ours", bits=4, group_size=64, quality="rtn")
    ours, theirs = (mx.load(str(tmp_path / name / "model.safetensors")) for name in ("ours", "theirs"))
    assert isinstance(ours, dict)
    assert isinstance(theirs, dict)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert ours[name].dtype == expected.dtype, name
        assert mx.array_equal(ours[name], expected).item(), name
    index, their_index = (
        json.loads((tmp_path / name / "model.safetensors.index.json").read_text()) for name in ("ours", "theirs")
    )
    assert index == their_index


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_mlx_lm_loads_every_affine_output_with_our_logits(
    source: Path, tmp_path: Path, bits: int, group_size: int
) -> None:
    import mlx_lm.utils

    source = save_tiny(tmp_path / "wide", hidden_size=128, **SMALL)
    report = convert(source, tmp_path / "out", bits=bits, group_size=group_size)
    assert report.bits_per_weight == pytest.approx(bits + 32 / group_size, abs=0.2)
    theirs, _ = mlx_lm.utils.load_model(tmp_path / "out")
    theirs.set_dtype(mx.float32)
    tokens = mx.array([[3, 5, 300, 7]])
    expected, ours = theirs(tokens), load_model(tmp_path / "out")(tokens)
    assert (mx.abs(expected - ours).max() < 1e-4 * mx.abs(expected).max()).item()


@pytest.mark.parametrize("mode", ["mxfp4", "nvfp4", "mxfp8"])
def test_floating_point_modes_load_here_and_in_mlx_lm(source: Path, tmp_path: Path, mode: str) -> None:
    import mlx_lm.utils

    convert(source, tmp_path / "out", mode=mode)
    theirs, _ = mlx_lm.utils.load_model(tmp_path / "out")
    theirs.set_dtype(mx.float32)
    tokens = mx.array([[3, 5, 300, 7]])
    expected, ours = theirs(tokens), load_model(tmp_path / "out")(tokens)
    assert (mx.abs(expected - ours).max() < 1e-4 * mx.abs(expected).max()).item()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_unquantized_weights_are_the_sources_in_the_dtype_asked_for(source: Path, tmp_path: Path, dtype: str) -> None:
    convert(source, tmp_path / "out", dtype=dtype)
    ours: Any = mx.load(str(tmp_path / "out" / "model.safetensors"))
    for name, weight in load_file(source / "model.safetensors").items():
        assert mx.array_equal(ours[name], mx.array(weight).astype(getattr(mx, dtype))).item(), name
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == dtype


def test_shards_of_the_output_hold_what_one_file_would(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(source, tmp_path / "whole", bits=4)
    plan = plan_module.make_plan
    monkeypatch.setattr(
        "llama3_mlx.convert.target_choice.make_plan", lambda *args: plan(args[0], args[1], args[2], shard_bytes=25_000)
    )
    convert(source, tmp_path / "sharded", bits=4)
    files = sorted((tmp_path / "sharded").glob("model-*.safetensors"))
    assert len(files) > 2
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    together = {name: array for file in files for name, array in load_file(file).items()}
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    assert together.keys() == whole.keys()
    assert all((together[name] == whole[name]).all() for name in whole)
    tokens = mx.array([[1, 2, 3]])
    assert mx.array_equal(load_model(tmp_path / "sharded")(tokens), load_model(tmp_path / "whole")(tokens)).item()


def test_a_sharded_source_equals_a_whole_one(source: Path, tmp_path: Path) -> None:
    weights = load_file(source / "model.safetensors")
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    shutil.copy(source / "config.json", sharded)
    names = sorted(weights)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, sharded / file)
    weight_map = {name: file for file, held in parts.items() for name in held}
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    convert(source, tmp_path / "one", bits=4)
    convert(sharded, tmp_path / "two", bits=4)
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()


def test_a_matrix_that_the_group_size_does_not_divide_stays_whole(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "source", hidden_size=96, head_dim=32, **SMALL)
    convert(source, tmp_path / "out", bits=4, group_size=64)
    entry = json.loads((tmp_path / "out" / "config.json").read_text())["quantization"]
    assert entry["model.layers.0.self_attn.q_proj"] is False
    assert "model.layers.0.self_attn.o_proj" not in entry
    assert load_model(tmp_path / "out")(mx.array([[1]])).shape == (1, 1, 512)


def test_a_tied_checkpoint_that_carries_its_head_loses_it(tmp_path: Path) -> None:
    weights = tiny_weights({**CONFIG, **SMALL})
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(16, np.float32)
    source = save_tiny(tmp_path / "source", weights=weights, **SMALL)
    convert(source, tmp_path / "out")
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")


def test_a_head_that_differs_from_the_embedding_is_kept_whatever_the_config_says(tmp_path: Path) -> None:
    """Logits in transformers, which takes both where both are there and differ."""
    import torch
    from transformers import AutoModelForCausalLM

    weights = tiny_weights({**CONFIG, **SMALL, "torch_dtype": "float32"})
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"][::-1].copy()
    source = save_tiny(tmp_path / "source", weights=weights, torch_dtype="float32", **SMALL)
    report = convert(source, tmp_path / "out")
    assert any("lm_head.weight differs from it" in note for note in report.notes)
    convert(tmp_path / "out", tmp_path / "back", to="hf")
    tokens = [[3, 5, 300, 7]]
    expected, back = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(torch.tensor(tokens)).logits.detach().numpy()
        for folder in (source, tmp_path / "back")
    )
    np.testing.assert_array_equal(back, expected)
    ours = np.array(load_model(tmp_path / "out")(mx.array(tokens)))
    assert np.abs(ours - expected).max() < 1e-4 * np.abs(expected).max()


def test_a_run_that_was_stopped_goes_on_and_ends_the_same(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama3_mlx.convert.targets.writer.FLUSH_BYTES", 1)
    convert(source, tmp_path / "whole", bits=4)

    class Stopping:
        def stage(self, name: str) -> None:
            return

        def start(self, total_tensors: int, total_bytes: int) -> None:
            self.seen = 0

        def advance(self, tensor: str, n_bytes: int, *, finished: bool) -> None:
            self.seen += 1
            if self.seen == 9:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", bits=4, progress=Stopping())
    assert not (tmp_path / "out").exists()
    report = convert(source, tmp_path / "out", bits=4)
    assert report.resumed_modules >= 8
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name
    assert leftovers(tmp_path, "source", "whole", "out") == []


def test_a_stopped_run_with_other_options_starts_over(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ConversionError, match="No space left on device; what is done is kept in"):
            convert(source, tmp_path / "out", bits=8)
    assert not (tmp_path / "out").exists()
    assert leftovers(tmp_path, "source") == [".out.partial"]
    assert convert(source, tmp_path / "out", bits=4).resumed_modules == 0
    convert(source, tmp_path / "other", bits=4)
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "other/model.safetensors").read_bytes()


def test_an_existing_destination_is_kept_unless_forced(source: Path, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    convert(source, dest, bits=8)
    before = (dest / "model.safetensors").read_bytes()
    with pytest.raises(ConversionError, match="exists already"):
        convert(source, dest, bits=4)
    assert (dest / "model.safetensors").read_bytes() == before
    convert(source, dest, bits=4, force=True)
    assert (dest / "model.safetensors").read_bytes() != before
    assert leftovers(tmp_path, "source", "out") == []


# Bad input: one line each, nothing left that looks finished.


def spoil(kind: str, source: Path) -> Path:
    """Damage the source folder in one way and return what to convert."""
    file, config = source / "model.safetensors", source / "config.json"
    weights = load_file(file)
    data = file.read_bytes()

    def rewrite(**changes: np.ndarray | None) -> None:
        kept = {**weights, **changes}
        save_file({name: array for name, array in kept.items() if array is not None}, file)

    def index(weight_map: dict[str, str]) -> None:
        (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    norm, layer = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"
    if kind == "no folder":
        return source / "absent"
    if kind == "no config":
        config.unlink()
    elif kind == "wrong family":
        config.write_text(json.dumps({**CONFIG, "model_type": "gemma"}))
    elif kind == "sliding window":
        config.write_text(
            json.dumps({**CONFIG, **SMALL, "layer_types": ["sliding_attention"] * 2, "sliding_window": 4})
        )
    elif kind == "cut short":
        file.write_bytes(data[:-1000])
    elif kind == "huge header":
        file.write_bytes(struct.pack("<Q", 2**60) + data[8:])
    elif kind == "header is no json":
        file.write_bytes(data[:8] + b"x" * 100 + data[108:])
    elif kind == "same name twice":
        text = json.dumps({"a": 1})[:-1] + ', "a": 2}'
        file.write_bytes(struct.pack("<Q", len(text)) + text.encode())
    elif kind == "missing, unexpected and misshapen":
        rewrite(**{norm: None, layer: weights[layer][:-1], "extra.weight": np.ones(3, np.float16)})
    elif kind == "index leads outside":
        index(dict.fromkeys(weights, "../model.safetensors"))
        file.unlink()
    elif kind == "index names an absent file":
        index({**dict.fromkeys(weights, "model.safetensors"), norm: "model-2.safetensors"})
    elif kind == "shards of two models":
        other = load_file(save_tiny(source.parent / "other", **{**SMALL, "hidden_size": 96}) / "model.safetensors")
        shutil.rmtree(source.parent / "other")
        rest = {name: array for name, array in other.items() if name.startswith("model.layers.1")}
        save_file({name: array for name, array in weights.items() if name not in rest}, source / "a.safetensors")
        save_file(rest, source / "b.safetensors")
        index({name: "b.safetensors" if name in rest else "a.safetensors" for name in weights})
        file.unlink()
    elif kind == "tensor in two shards":
        save_file(weights, source / "a.safetensors")
        save_file({norm: weights[norm]}, source / "b.safetensors")
        index({name: "b.safetensors" if name == norm else "a.safetensors" for name in weights})
        file.unlink()
    elif kind == "link out of the index":
        file = file.rename(source / "weights.safetensors")
        index(dict.fromkeys(weights, str(file.resolve())))
    elif kind == "one file of it":
        return file
    elif kind == "not a number":
        weights[layer][5, 7] = np.nan
        rewrite(**{layer: weights[layer]})
    elif kind == "infinity":
        weights[layer][5, 7] = -np.inf
        rewrite(**{layer: weights[layer]})
    elif kind == "pytorch weights":
        file.rename(source / "pytorch_model.bin")
    return source


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no folder", "there is no folder"),
        ("no config", "no config.json"),
        ("wrong family", "'gemma'"),
        ("sliding window", "layer_types with sliding_attention"),
        ("cut short", "cut short: its header describes"),
        ("huge header", f"claims a header of {2**60}"),
        ("header is no json", "damaged header"),
        ("same name twice", "'a' stands in it twice"),
        (
            "missing, unexpected and misshapen",
            r"missing: model.norm.weight; unexpected: extra.weight; of wrong shape: model.layers.1.mlp.up_proj.weight "
            r"is \[127, 64\] and should be \[128, 64\]",
        ),
        ("index leads outside", r"must be a plain name in the folder, not '\.\./model.safetensors'"),
        ("index names an absent file", "lacks model-2.safetensors"),
        (
            "shards of two models",
            r"of wrong shape: model.layers.1.input_layernorm.weight is \[96\] and should be \[64\], .* and 7 more",
        ),
        ("tensor in two shards", "model.norm.weight is in a.safetensors and again in b.safetensors"),
        ("link out of the index", "must be a plain name in the folder"),
        ("one file of it", "is a part of a model: name the folder that it is in"),
        ("not a number", "model.layers.1.mlp.up_proj.weight holds NaN or infinity"),
        ("infinity", "model.layers.1.mlp.up_proj.weight holds NaN or infinity"),
        ("pytorch weights", r"pytorch_model.bin.*safe_serialization"),
    ],
)
def test_bad_sources_are_one_line_and_leave_nothing_finished(
    source: Path, tmp_path: Path, kind: str, words: str
) -> None:
    damaged = spoil(kind, source)
    with pytest.raises(Llama3MLXError, match=words) as caught:
        convert(damaged, tmp_path / "out", bits=4)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert all(not (folder / "config.json").exists() for folder in tmp_path.glob(".*"))


def test_values_beyond_float16_ask_for_another_dtype(tmp_path: Path) -> None:
    weights = tiny_weights({**CONFIG, **SMALL, "torch_dtype": "float32"})
    weights["model.norm.weight"][0] = 1e6
    source = save_tiny(tmp_path / "source", weights=weights, torch_dtype="float32", **SMALL)
    with pytest.raises(ConversionError, match=r"model.norm.weight doesn't fit the range of F16: choose dtype bfloat16"):
        convert(source, tmp_path / "out", bits=4)
    # What was written for float16 is of no use for another dtype.
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    convert(source, tmp_path / "out", bits=4, dtype="bfloat16")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 7}, "bits must be one of 2, 3, 4, 5, 6, 8, not 7"),
        ({"bits": 4, "group_size": 48}, "group_size must be one of 32, 64, 128, not 48"),
        ({"group_size": 64}, "a group size needs bits"),
        ({"dtype": "int4"}, "dtype must be one of"),
        ({"mode": "mxfp4", "bits": 8}, "mxfp4 has 4 bits"),
        ({"mode": "ternary", "bits": 4}, "mode must be one of"),
    ],
)
def test_options_that_do_not_exist_are_refused(source: Path, tmp_path: Path, options: Any, words: str) -> None:
    with pytest.raises((ConfigError, ConversionError), match=words):
        convert(source, tmp_path / "out", **options)
