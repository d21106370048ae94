"""GGUF export to bf16 and K-quants: decoded by the gguf package, run by llama.cpp."""

import json
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from llama3_mlx import ConversionError, Llama
from llama3_mlx.convert import ConversionOptions, convert
from llama3_mlx.convert.gguf.tensor_types import FILE_TYPES, encode
from llama3_mlx.convert.options import GGUF_TYPES

from ..support.llama_cpp import greedy_text
from .test_export import save_source

WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 8}


def decoded(values: np.ndarray, kind: str) -> np.ndarray:
    return gguf.dequantize(encode(mx.array(values), kind), gguf.GGMLQuantizationType[kind])


def error(values: np.ndarray, kind: str) -> float:
    return float(np.linalg.norm(decoded(values, kind) - values) / np.linalg.norm(values))


@pytest.mark.parametrize(("kind", "coarser"), [("Q6_K", "Q5_K"), ("Q5_K", "Q4_K"), ("Q4_K", "Q4_0"), ("Q4_K", "Q4_1")])
def test_values_come_back_closer_than_from_the_next_coarser_type(kind: str, coarser: str) -> None:
    """The coarser 32-value types are written by the gguf package."""
    values = np.random.default_rng(0).standard_t(5, (64, 1024)).astype(np.float32) * 0.02
    assert error(values, kind) < error(values, coarser)


@pytest.mark.parametrize(("kind", "bound"), [("Q6_K", 0.025), ("Q5_K", 0.05), ("Q4_K", 0.1)])
def test_rows_of_every_kind_of_values_come_back(kind: str, bound: float) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 256).astype(np.float32)
    outlier = noise.copy()
    outlier[100] = 50.0
    rows = np.stack(
        [
            noise,
            np.abs(noise),
            -np.abs(noise),
            np.full_like(noise, 0.3),
            np.full_like(noise, -0.3),
            noise * 1e4,
            outlier,
        ]
    )
    back = decoded(rows, kind)
    errors = np.linalg.norm(back - rows, axis=1) / np.linalg.norm(rows, axis=1)
    assert (errors < bound).all(), errors
    assert not decoded(np.zeros((1, 512), np.float32), kind).any()


def test_the_bytes_are_those_of_the_format_for_values_that_lie_on_its_grid() -> None:
    """Random blocks, decoded by the gguf package, are encoded so that they decode to nearly the same again."""
    rng = np.random.default_rng(2)
    for kind, size in (("Q4_K", 144), ("Q5_K", 176), ("Q6_K", 210)):
        blocks = rng.integers(0, 256, (8, size), np.uint8)
        halves = np.array([0.01, 0.02], np.float16).view(np.uint8)
        if kind == "Q6_K":
            blocks[:, -2:] = halves[:2]
        else:
            blocks[:, :4] = halves
        values = gguf.dequantize(blocks, gguf.GGMLQuantizationType[kind])
        assert error(values, kind) < {"Q4_K": 0.05, "Q5_K": 0.03, "Q6_K": 0.015}[kind]


def types_of(file: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}


@pytest.mark.parametrize("kind", ["bf16", "q6_k", "q5_k_m", "q5_k_s", "q4_k_m"])
def test_each_type_is_read_by_the_gguf_package_and_run_by_llama_cpp(tmp_path: Path, kind: str) -> None:
    source = save_source(tmp_path / "source", **WIDE)
    report = convert(source, tmp_path / "out.gguf", gguf_type=kind.upper(), verify=True)
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    name = {"bf16": "MOSTLY_BF16"}.get(kind, f"MOSTLY_{kind.upper()}")
    assert reader.fields["general.file_type"].contents() == gguf.LlamaFileType[name]
    assert report.verification is not None
    assert report.verification.worst is not None
    assert report.verification.worst.relative_error < {"bf16": 0.004, "q6_k": 0.02}.get(kind, 0.09)
    # What llama.cpp computes is what we compute with the values that the gguf package reads.
    convert(tmp_path / "out.gguf", tmp_path / "back", dtype="float32", dequantize=True)
    prompt = [int(token) for token in np.random.default_rng(5).integers(256, 756, 20)]
    ours = np.array(Llama.load(tmp_path / "back").logits(prompt)[-1])
    text = greedy_text(tmp_path / "out.gguf", prompt, 1)
    ids = Llama.load(tmp_path / "back").tokenizer.encode(text)
    # llama.cpp rounds activations to 8 bits before it multiplies quantized weights: near the top is near enough.
    assert ours[ids[0]] > ours.max() - 0.1 * ours.std()


def test_sensitive_matrices_get_more_bits_as_in_llama_cpp(tmp_path: Path) -> None:
    """llama.cpp's use_more_bits: the first and the last eighth of the layers, and every third between."""
    source = save_source(tmp_path / "source", tie_word_embeddings=False, **WIDE)
    convert(source, tmp_path / "out.gguf", gguf_type="q4_k_m")
    types = types_of(tmp_path / "out.gguf")
    assert (types["output.weight"], types["token_embd.weight"], types["output_norm.weight"]) == ("Q6_K", "Q4_K", "F32")
    high = [n for n in range(8) if n < 1 or n >= 7 or (n - 1) % 3 == 2]
    for part in ("attn_v", "ffn_down"):
        assert [n for n in range(8) if types[f"blk.{n}.{part}.weight"] == "Q6_K"] == high
    assert {types[f"blk.{n}.{part}.weight"] for n in range(8) for part in ("attn_q", "ffn_up")} == {"Q4_K"}


def test_rows_that_superblocks_do_not_divide_get_the_type_that_llama_cpp_falls_back_to(tmp_path: Path) -> None:
    report = convert(save_source(tmp_path / "source"), tmp_path / "out.gguf", gguf_type="q4_k_m")
    types = types_of(tmp_path / "out.gguf")
    assert types["blk.0.attn_q.weight"] == "Q5_0"
    assert types["token_embd.weight"] == "Q8_0"
    assert types["blk.0.ffn_down.weight"] in ("Q4_K", "Q6_K")
    assert any(note.startswith("in Q5_0, as the blocks of q4_k_m don't divide their rows: ") for note in report.notes)


def test_bfloat16_weights_are_written_bit_for_bit(tmp_path: Path) -> None:
    source = save_source(tmp_path / "source", torch_dtype="bfloat16")
    convert(source, tmp_path / "out.gguf", gguf_type="bf16")
    convert(tmp_path / "out.gguf", tmp_path / "back")
    ours: Any = mx.load(str(tmp_path / "back" / "model.safetensors"))
    expected: Any = mx.load(str(source / "model.safetensors"))
    assert all(mx.array_equal(ours[name], weight).item() for name, weight in expected.items())


def test_values_beyond_float16_are_refused_with_a_type_that_holds_them(tmp_path: Path) -> None:
    source = save_source(tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3, 4] = 1e6
    source = save_source(tmp_path / "wide", weights=weights)
    for kind in ("f16", "q8_0"):
        with pytest.raises(ConversionError, match=r"doesn't fit the range of .*: choose gguf_type bf16 or f32"):
            convert(source, tmp_path / "out.gguf", gguf_type=kind)
    convert(source, tmp_path / "out.gguf", gguf_type="bf16")


def test_license_and_base_model_go_into_the_metadata(tmp_path: Path) -> None:
    source = save_source(tmp_path / "source")
    card = {
        "license": "llama3.2",
        "license_link": "LICENSE",
        "base_model": ["meta-llama/Tiny"],
        "language": ["en", "de"],
    }
    (source / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n# Tiny\n")
    convert(source, tmp_path / "out.gguf")
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    keys = gguf.Keys.General
    assert fields[keys.LICENSE].contents() == "llama3.2"
    assert fields[keys.LICENSE_LINK].contents() == "LICENSE"
    assert fields[keys.LANGUAGES].contents() == ["en", "de"]
    assert fields[keys.BASE_MODEL_COUNT].contents() == 1
    assert fields[keys.BASE_MODEL_NAME.format(id=0)].contents() == "Tiny"
    assert fields[keys.BASE_MODEL_ORGANIZATION.format(id=0)].contents() == "meta-llama"
    assert fields[keys.BASE_MODEL_REPO_URL.format(id=0)].contents() == "https://huggingface.co/meta-llama/Tiny"


def test_the_types_of_the_flag_are_those_that_can_be_written() -> None:
    assert set(GGUF_TYPES) == set(FILE_TYPES)
    with pytest.raises(ConversionError, match=r"gguf_type must be one of f32, f16, bf16, .*, not 'q4_k'"):
        ConversionOptions(gguf_type="q4_k")
    assert json.dumps(ConversionOptions(gguf_type="Q4_K_M").gguf_type) == '"q4_k_m"'
