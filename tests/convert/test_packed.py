"""AWQ, GPTQ, compressed-tensors and FP8 folders, read exactly.

References: mlx-lm's unpacking of AWQ, the package compressed-tensors and transformers' loader with it, torch's float8;
GPTQ's layout is derived anew, value by value, from AutoGPTQ's documentation of it.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from llama3_mlx import CheckpointError, ConfigError
from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.cli import main
from llama3_mlx.convert import convert

from ..support.tiny_model import CONFIG, tiny_weights

SMALL: dict[str, Any] = {
    "vocab_size": 512,
    "num_hidden_layers": 1,
    "hidden_size": 128,
    "intermediate_size": 256,
    "bos_token_id": 0,
    "eos_token_id": [1],
    "rope_scaling": None,
}
GROUP = 32
RNG = np.random.default_rng(0)


def matrices() -> dict[str, np.ndarray]:
    weights = tiny_weights({**CONFIG, **SMALL, "torch_dtype": "float32"})
    return {name.removesuffix(".weight"): w for name, w in weights.items() if w.ndim == 2 and "layers" in name}


def save(folder: Path, packed: dict[str, torch.Tensor], entry: dict[str, Any], **files: Any) -> Path:
    """Write a folder of packed matrices; what isn't packed is that of the tiny model in float16."""
    folder.mkdir()
    whole = tiny_weights({**CONFIG, **SMALL})
    names = {f"{path}.weight" for path in matrices()}
    rest = {name: torch.from_numpy(w) for name, w in whole.items() if name not in names}
    save_file({**rest, **packed}, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(
        json.dumps({**CONFIG, **SMALL, **({"quantization_config": entry} if entry else {})})
    )
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def read(source: Path, out: Path) -> dict[str, np.ndarray]:
    convert(source, out, dtype="float32")
    loaded: Any = mx.load(str(out / "model.safetensors"))
    return {name.removesuffix(".weight"): np.array(loaded[name]) for name in loaded if "_proj" in name}


def same(ours: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert ours.keys() == expected.keys()
    for path, weight in expected.items():
        np.testing.assert_array_equal(ours[path], weight.astype(np.float32), err_msg=path)


def random_parts(shape: tuple[int, ...], bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes (R, C), zero points (R, groups) and float16 scales (R, groups)."""
    rows, groups = shape[0], shape[1] // GROUP
    codes = RNG.integers(0, 2**bits, shape)
    return (
        codes,
        RNG.integers(0, 2**bits, (rows, groups)),
        RNG.uniform(0.001, 0.01, (rows, groups)).astype(np.float16),
    )


def test_awq_is_read_as_mlx_lm_reads_it(tmp_path: Path) -> None:
    from mlx_lm.utils import _transform_awq_weights

    def pack(codes: np.ndarray) -> torch.Tensor:
        # AutoAWQ: nibble n of a word is the column at this place.
        words = np.zeros((codes.shape[0], codes.shape[1] // 8), np.uint32)
        for n, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
            words |= codes[:, column::8].astype(np.uint32) << np.uint32(4 * n)
        return torch.from_numpy(words.view(np.int32))

    packed: dict[str, torch.Tensor] = {}
    expected: dict[str, np.ndarray] = {}
    for path, weight in matrices().items():
        codes, zeros, scales = random_parts(weight.shape, 4)
        packed |= {f"{path}.qweight": pack(codes.T), f"{path}.qzeros": pack(zeros.T)}
        packed[f"{path}.scales"] = torch.from_numpy(np.ascontiguousarray(scales.T))
        expected[path] = (codes - np.repeat(zeros, GROUP, 1)) * np.repeat(scales.astype(np.float32), GROUP, 1)
    entry = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True}
    source = save(tmp_path / "source", packed, entry)
    ours = read(source, tmp_path / "out")
    same(ours, expected)
    theirs, _ = _transform_awq_weights({name: mx.array(t.numpy()) for name, t in packed.items()}, entry)
    for path, weight in ours.items():
        words, *grid = (theirs[f"{path}.{part}"] for part in ("weight", "scales", "biases"))
        scales, biases = (part.astype(mx.float32) for part in grid)
        values = mx.dequantize(words, scales, biases, group_size=GROUP, bits=4)
        # Their biases are rounded to float16.
        np.testing.assert_allclose(weight, np.array(values), atol=1e-4)
    (note,) = [note for note in convert(source, tmp_path / "large").notes if "--bits" in note]
    assert "--bits 4 --group-size 32 keeps it" in note
    # The codes can be kept in MLX's groups of the same length.
    report = convert(source, tmp_path / "four", bits=4, group_size=GROUP, verify=True)
    assert report.verification is not None
    for module in report.verification.modules:
        assert "_proj" not in module.tensor or module.relative_error < 1e-3, module


@pytest.mark.parametrize(
    ("bits", "version", "reordered"),
    [(4, "gptq", False), (4, "gptq", True), (4, "gptq_v2", False), (8, "gptq", False), (2, "gptq", False)],
)
def test_gptq_is_read_as_its_layout_says(tmp_path: Path, bits: int, version: str, reordered: bool) -> None:
    packed: dict[str, torch.Tensor] = {}
    expected: dict[str, np.ndarray] = {}
    per_word = 32 // bits
    for path, weight in matrices().items():
        codes, zeros, scales = random_parts(weight.shape, bits)
        rows, columns = weight.shape
        groups = RNG.permutation(np.arange(columns) // GROUP) if reordered else np.arange(columns) // GROUP
        words = np.zeros((columns // per_word, rows), np.uint32)
        for column in range(columns):
            words[column // per_word] |= codes[:, column].astype(np.uint32) << np.uint32(bits * (column % per_word))
        stored = (zeros - (0 if version == "gptq_v2" else 1)) % 2**bits
        zero_words = np.zeros((columns // GROUP, rows // per_word), np.uint32)
        for row in range(rows):
            zero_words[:, row // per_word] |= stored[row].astype(np.uint32) << np.uint32(bits * (row % per_word))
        packed |= {
            f"{path}.qweight": torch.from_numpy(words.view(np.int32)),
            f"{path}.qzeros": torch.from_numpy(zero_words.view(np.int32)),
        }
        packed |= {
            f"{path}.scales": torch.from_numpy(np.ascontiguousarray(scales.T)),
            f"{path}.g_idx": torch.from_numpy(groups.astype(np.int32)),
        }
        expected[path] = (codes - zeros[:, groups]) * scales.astype(np.float32)[:, groups]
    entry = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": GROUP,
        "desc_act": reordered,
        "checkpoint_format": version,
    }
    same(read(save(tmp_path / "source", packed, entry), tmp_path / "out"), expected)
    if version == "gptq" and not reordered:
        older = {name: value for name, value in entry.items() if name not in ("quant_method", "checkpoint_format")}
        same(read(save(tmp_path / "older", packed, {}, quantize_config=older), tmp_path / "older out"), expected)


def ct_entry(bits: int, kind: str, form: str, **weights: Any) -> dict[str, Any]:
    args = {"num_bits": bits, "type": kind, "symmetric": True, "dynamic": False, **weights}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": args, "input_activations": None}},
    }


def transformers_weights(source: Path) -> dict[str, np.ndarray]:
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, quantization_config=CompressedTensorsConfig(run_compressed=False)
        )
    return {path: module.weight.detach().numpy() for path, module in model.named_modules() if path in matrices()}


@pytest.mark.parametrize(
    ("bits", "symmetric", "strategy"),
    [(4, True, "group"), (4, False, "group"), (8, True, "group"), (4, True, "channel")],
)
def test_pack_quantized_is_read_as_the_package_compressed_tensors_packs_it(
    tmp_path: Path, bits: int, symmetric: bool, strategy: str
) -> None:
    from compressed_tensors.compressors.pack_quantized import pack_to_int32  # type: ignore[import-untyped]

    packed: dict[str, torch.Tensor] = {}
    expected: dict[str, np.ndarray] = {}
    half = 2 ** (bits - 1)
    for path, weight in matrices().items():
        codes, zeros, scales = random_parts(weight.shape, bits)
        if strategy == "channel":
            zeros, scales = zeros[:, :1], scales[:, :1]
        signed, signed_zeros = codes - half, (zeros - half if not symmetric else np.zeros_like(zeros))
        length = weight.shape[1] // scales.shape[1]
        packed[f"{path}.weight_packed"] = pack_to_int32(torch.from_numpy(signed.astype(np.int8)), bits)
        packed[f"{path}.weight_scale"] = torch.from_numpy(scales).to(torch.bfloat16)
        packed[f"{path}.weight_shape"] = torch.tensor(weight.shape, dtype=torch.int64)
        if not symmetric:
            packed[f"{path}.weight_zero_point"] = pack_to_int32(
                torch.from_numpy(signed_zeros.astype(np.int8)), bits, packed_dim=0
            )
        steps = packed[f"{path}.weight_scale"].float().numpy()
        expected[path] = (signed - np.repeat(signed_zeros, length, 1)) * np.repeat(steps, length, 1)
    size = {"group_size": GROUP} if strategy == "group" else {}
    entry = ct_entry(
        bits, "int", "pack-quantized", strategy=strategy, **size, **({} if symmetric else {"symmetric": False})
    )
    source = save(tmp_path / "source", packed, entry)
    same(read(source, tmp_path / "out"), expected)


@pytest.mark.parametrize("kind", ["channel", "tensor", "block", "fbgemm", "int8"])
def test_8_bit_weights_are_read_as_torch_reads_them(tmp_path: Path, kind: str) -> None:
    packed: dict[str, torch.Tensor] = {}
    expected: dict[str, np.ndarray] = {}
    for path, weight in matrices().items():
        w = torch.from_numpy(weight)
        rows, columns = w.shape
        if kind == "block":
            stored = (w * 100).to(torch.float8_e4m3fn)
            scale = torch.rand(-(-rows // 128), -(-columns // 128)) * 0.01
            expected[path] = (
                stored.float() * scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:rows, :columns]
            ).numpy()
            packed |= {f"{path}.weight": stored, f"{path}.weight_scale_inv": scale}
            continue
        scale = torch.rand(1) * 0.01 if kind == "tensor" else torch.rand(rows, 1) * 0.01
        stored = (
            torch.randint(-128, 128, w.shape).to(torch.int8) if kind == "int8" else (w * 100).to(torch.float8_e4m3fn)
        )
        expected[path] = (stored.float() * scale).numpy()
        packed |= {f"{path}.weight": stored, f"{path}.weight_scale": scale}
    entries: dict[str, dict[str, Any]] = {
        "block": {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
        "fbgemm": {"quant_method": "fbgemm_fp8"},
        "int8": ct_entry(8, "int", "int-quantized", strategy="channel"),
    }
    source = save(
        tmp_path / "source", packed, entries.get(kind) or ct_entry(8, "float", "float-quantized", strategy=kind)
    )
    same(read(source, tmp_path / "out"), expected)


def test_every_e4m3_code_is_read_as_torch_reads_it() -> None:
    from llama3_mlx.convert.sources.packed_layers import E4M3

    expected = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(E4M3, expected)


def test_what_transformers_loads_is_what_is_read(tmp_path: Path) -> None:
    from compressed_tensors.compressors.pack_quantized import pack_to_int32

    packed: dict[str, torch.Tensor] = {}
    for path, weight in matrices().items():
        codes, _, scales = random_parts(weight.shape, 4)
        packed[f"{path}.weight_packed"] = pack_to_int32(torch.from_numpy((codes - 8).astype(np.int8)), 4)
        packed[f"{path}.weight_scale"] = torch.from_numpy(scales)
        packed[f"{path}.weight_shape"] = torch.tensor(weight.shape, dtype=torch.int64)
    source = save(tmp_path / "source", packed, ct_entry(4, "int", "pack-quantized", strategy="group", group_size=GROUP))
    # The product of code and scale is rounded to the scale's float16 there.
    ours = {path: weight.astype(np.float16) for path, weight in read(source, tmp_path / "out").items()}
    same(ours, transformers_weights(source))


def test_what_is_packed_otherwise_is_refused_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = {f"{path}.qweight": torch.zeros(4, 4, dtype=torch.int32) for path in matrices()}
    source = save(tmp_path / "gemv", packed, {"quant_method": "awq", "bits": 4, "version": "gemv"})
    with pytest.raises(CheckpointError, match="AWQ weights are read in 4 bits and the layout GEMM, not 'gemv'"):
        convert(source, tmp_path / "out")
    source = save(tmp_path / "three", packed, {"quant_method": "gptq", "bits": 3})
    with pytest.raises(CheckpointError, match="GPTQ weights are read in 2, 4 and 8 bits, not 3"):
        convert(source, tmp_path / "out")
    source = save(tmp_path / "short", packed, {"quant_method": "gptq", "bits": 4})
    with pytest.raises(CheckpointError, match=r"self_attn.q_proj lacks qzeros, scales"):
        convert(source, tmp_path / "out")
    with pytest.raises(
        ConfigError, match="quantized by 'gptq' can't be run: convert them with llama3-mlx convert, or take"
    ):
        load_model(source)
    assert main(["convert", str(source), str(tmp_path / "out"), "--bits", "4"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
