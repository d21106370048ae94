"""Conversion of GGUF: against an independent reading with the gguf package, against damaged files."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from llama3_mlx import CheckpointError, Llama, Llama3MLXError
from llama3_mlx.convert import convert
from llama3_mlx.convert.gguf.file import GGUFFile, GGUFTensor
from llama3_mlx.convert.sources.rotary_rows import read_halves

from ..support.smollm2 import gguf_path
from ..support.tiny_model import CONFIG, tiny_weights


def test_the_gguf_of_smollm2_gives_the_tensors_of_an_independent_reading(tmp_path: Path, smollm2_folder: Path) -> None:
    convert(gguf_path(), tmp_path / "out", dtype="float32")
    ours, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", smollm2_folder))
    assert ours.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_array_equal(ours[name], weight, err_msg=name)
    config, reference = (json.loads((f / "config.json").read_text()) for f in (tmp_path / "out", smollm2_folder))
    assert {name: config[name] for name in reference} == reference
    llama, whole = Llama.load(tmp_path / "out"), Llama.load(smollm2_folder)
    messages = [{"role": "user", "content": "Hi 1234 <|im_end|>"}]
    assert llama.encode_chat(messages) == whole.encode_chat(messages)
    assert llama.stop_ids == whole.stop_ids


def write_gguf(
    path: Path,
    kind: str,
    *,
    rope_factor: float | None = None,
    pre: str = "llama-bpe",
    tensors_a_file: int = 0,
    spoil: dict[str, float] | None = None,
) -> dict[str, np.ndarray]:
    """Write a tiny Llama in GGUF with the gguf package and return the Hugging Face tensors that it means."""
    import gguf

    from llama3_mlx.model.rope import RopeScaling, rope_periods

    config = {**CONFIG, "hidden_size": 256, "intermediate_size": 256, "vocab_size": 300, "torch_dtype": "float32"}
    weights = tiny_weights(config)
    for name, value in (spoil or {}).items():
        weights[name].flat[7] = value
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=tensors_a_file)
    writer.add_context_length(131072)
    writer.add_embedding_length(256)
    writer.add_block_count(2)
    writer.add_feed_forward_length(256)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(32)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    alphabet = [chr(0x100 + i) for i in range(298)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*alphabet, "<|begin_of_text|>", "<|eot_id|>"])
    writer.add_token_types([1] * 298 + [3, 3])
    writer.add_token_merges([])
    writer.add_bos_token_id(298)
    writer.add_eos_token_id(299)
    if rope_factor:
        plain, scaled = (
            np.array(rope_periods(32, 500000.0, s)) for s in (RopeScaling(), RopeScaling("llama3", rope_factor))
        )
        writer.add_tensor("rope_freqs.weight", (scaled / plain).astype(np.float32))
    quantized = gguf.GGMLQuantizationType[kind]
    expected = {}
    for name, weight in weights.items():
        parts = name.split(".")
        if parts[1] == "layers":
            layer = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}.get(parts[3])
            layer = layer or {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}.get(
                parts[4]
            )
            layer = layer or {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}[parts[4]]
            theirs = f"blk.{parts[2]}.{layer}.weight"
        else:
            theirs = {"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}[parts[1]]
        heads = {"q_proj": 4, "k_proj": 2}.get(parts[4] if len(parts) > 4 else "")
        rows = np.arange(weight.shape[0])
        if heads:
            # Interleaved row 2i is half-split row i of its head, 2i + 1 is row i + half.
            rows = rows.reshape(heads, 2, -1).transpose(0, 2, 1).reshape(-1)
        stored = weight[rows]
        if weight.ndim == 1:
            writer.add_tensor(theirs, stored)
            expected[name] = weight
            continue
        with np.errstate(invalid="ignore"):
            packed = gguf.quantize(stored, quantized)
            back = gguf.dequantize(packed, quantized)
        writer.add_tensor(theirs, packed, raw_dtype=quantized)
        expected[name] = np.empty_like(weight)
        expected[name][rows] = back.reshape(weight.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_gguf_types_dequantize_as_the_gguf_package_does(tmp_path: Path, kind: str) -> None:
    expected = write_gguf(tmp_path / "model.gguf", kind)
    convert(tmp_path / "model.gguf", tmp_path / "out", dtype="float32")
    ours = load_file(tmp_path / "out" / "model.safetensors")
    for name, weight in expected.items():
        np.testing.assert_array_equal(ours[name], weight, err_msg=name)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_rope_scaling_comes_back_out_of_the_factors(tmp_path: Path, factor: float) -> None:
    write_gguf(tmp_path / "model.gguf", "F16", rope_factor=factor)
    convert(tmp_path / "model.gguf", tmp_path / "out")
    scaling = json.loads((tmp_path / "out" / "config.json").read_text())["rope_scaling"]
    assert scaling == {**CONFIG["rope_scaling"], "factor": factor}


def test_a_split_file_is_what_the_whole_one_is(tmp_path: Path) -> None:
    expected = write_gguf(tmp_path / "m.gguf", "Q8_0", tensors_a_file=7, rope_factor=8.0)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert [part.name for part in parts] == [f"m-{n:05d}-of-00003.gguf" for n in (1, 2, 3)]
    for source in (parts[0], parts[2], tmp_path):
        convert(source, tmp_path / "out", dtype="float32", force=True)
        ours = load_file(tmp_path / "out" / "model.safetensors")
        assert ours.keys() == expected.keys()
        for name, weight in expected.items():
            np.testing.assert_array_equal(ours[name], weight, err_msg=name)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rope_scaling"]["factor"] == 8.0


def test_infinity_and_doubled_tensors_are_refused_by_name(tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    for kind, value in (("F16", np.inf), ("F32", np.nan), ("Q4_1", np.inf)):
        write_gguf(tmp_path / "model.gguf", kind, spoil={name: value})
        with pytest.raises(CheckpointError, match=f"{name} holds NaN or infinity: the source is damaged"):
            convert(tmp_path / "model.gguf", tmp_path / "out", bits=4)
    write_gguf(tmp_path / "model.gguf", "F16")
    data = (tmp_path / "model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(data.replace(b"blk.1.ffn_up.weight", b"blk.0.ffn_up.weight"))
    with pytest.raises(CheckpointError, match=r"blk.0.ffn_up.weight stands in it twice"):
        convert(tmp_path / "model.gguf", tmp_path / "out", bits=4)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_a_missing_part_of_a_split_gguf_is_named(tmp_path: Path) -> None:
    shutil.copy(gguf_path(), tmp_path / "m-00001-of-00003.gguf")
    with pytest.raises(CheckpointError, match=r"lacks m-00002-of-00003.gguf, m-00003-of-00003.gguf"):
        convert(tmp_path / "m-00001-of-00003.gguf", tmp_path / "out")


@pytest.mark.parametrize(
    "kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ4_NL", "IQ2_S", "TQ1_0", "MXFP4"]
)
def test_rows_of_quantized_types_are_those_of_the_whole_tensor(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gguf package can't write these; random bytes are valid blocks of them."""
    import gguf

    monkeypatch.setattr("llama3_mlx.convert.gguf.file._STEP_VALUES", 600)
    quantized = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[quantized]
    data = np.random.default_rng(0).integers(0, 256, (16, 256 // block * size), np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("x", data, raw_dtype=quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with np.errstate(all="ignore"):
        whole = gguf.dequantize(data, quantized)
    halves = [head * 8 + 2 * pair + part for head in range(2) for part in range(2) for pair in range(4)]
    file = GGUFFile(tmp_path / "x.gguf")
    tensor: GGUFTensor = file.tensors["x"]
    assert tensor.shape == (16, 256)
    np.testing.assert_array_equal(file.read(tensor, 5, 9), whole[5:9])
    np.testing.assert_array_equal(read_halves(lambda a, b: file.read(tensor, a, b), 8, 3, 11), whole[halves][3:11])
    file.close()


def test_metadata_is_what_the_gguf_package_reads() -> None:
    import gguf

    reader, file = gguf.GGUFReader(gguf_path()), GGUFFile(gguf_path())
    theirs = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert file.fields == theirs
    facts = {t.name: (tuple(map(int, reversed(t.shape))), t.tensor_type.name, int(t.n_bytes)) for t in reader.tensors}
    assert {name: (t.shape, t.kind, t.nbytes) for name, t in file.tensors.items()} == facts
    file.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:100_000], "damaged or cut short"),
        (lambda data: data[: len(data) // 2], r"is cut short: blk\.\d+\.\w+\.weight ends at byte \d+, the file at \d+"),
        (lambda data: b"GGML" + data[4:], "is not a GGUF file"),
        (lambda data: data[:8] + struct.pack("<Q", 2**60) + data[16:], f"cut short: {2**60} entries"),
        (lambda data: data[:4] + struct.pack("<I", 99) + data[8:], "has a damaged header: version 99"),
        (lambda data: data[:4] + struct.pack("<I", 1) + data[8:], "GGUF version 1, which nothing reads any more"),
        (lambda data: data[:4] + struct.pack(">I", 3) + data[8:], "is big-endian, which is not supported"),
        (lambda data: b"", "is not a GGUF file"),
    ],
)
def test_bad_gguf_files_are_one_line(tmp_path: Path, change: Any, words: str) -> None:
    (tmp_path / "model.gguf").write_bytes(change(gguf_path().read_bytes()))
    with pytest.raises(CheckpointError, match=words) as caught:
        convert(tmp_path / "model.gguf", tmp_path / "out", bits=4)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_unknown_gguf_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", "F16", pre="chameleon")
    with pytest.raises(CheckpointError, match="pre-tokenizer is 'chameleon'"):
        convert(tmp_path / "model.gguf", tmp_path / "out")


def test_no_flipped_byte_in_a_header_brings_more_than_one_line(tmp_path: Path) -> None:
    write_gguf(tmp_path / "whole.gguf", "Q8_0")
    data = (tmp_path / "whole.gguf").read_bytes()
    rng = np.random.default_rng(3)
    spoilt = tmp_path / "model.gguf"
    outcomes = set()
    for _ in range(150):
        changed = bytearray(data)
        for at in rng.integers(0, 6000, rng.integers(1, 4)):
            changed[at] = rng.integers(0, 256)
        spoilt.write_bytes(changed)
        try:
            convert(spoilt, tmp_path / "out", force=True)
            outcomes.add("converted")
        except Llama3MLXError as error:
            outcomes.add("refused" if "\n" not in str(error) else str(error))
    assert outcomes == {"converted", "refused"}
