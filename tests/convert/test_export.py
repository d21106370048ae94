"""Export to GGUF and to Hugging Face: against the gguf package, llama.cpp, transformers."""

import json
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file

from llama3_mlx import CheckpointError, ConversionError, Llama, TokenizerError
from llama3_mlx.convert import convert, dry_run
from llama3_mlx.convert.sources.tokenizer_json import beginning, byte_level_json
from llama3_mlx.tokenizer.byte_level import from_bytes
from llama3_mlx.tokenizer.llama3 import SPLIT_PATTERN

from ..support.llama_cpp import greedy_text, prompt_lengths
from ..support.tiny_model import CONFIG, save_tiny, tiny_weights

SMALL: dict[str, Any] = {
    "vocab_size": 768,
    "hidden_size": 128,
    "intermediate_size": 256,
    "torch_dtype": "float32",
    "bos_token_id": 756,
    "eos_token_id": [757],
}
TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}"
KINDS = ["f32", "f16", "q8_0", "q4_0", "q4_1"]


def save_letters_tokenizer(folder: Path) -> None:
    """Llama 3's way of splitting with 256 bytes, 500 pairs of letters and two control tokens; 758 tokens."""
    texts = [from_bytes(bytes([byte])) for byte in range(256)]
    letters = "abcdefghijklmnopqrstuvwxyz"
    pairs = [left + right for left in letters for right in letters][:500]
    vocabulary = {text: token for token, text in enumerate([*texts, *pairs])}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    controls = ["<|begin_of_text|>", "<|eot_id|>"]
    content = byte_level_json(
        [{"type": "Split", "pattern": {"Regex": SPLIT_PATTERN}, "behavior": "Isolated", "invert": False}],
        vocabulary,
        [f"{pair[0]} {pair[1]}" for pair in pairs],
        [{"id": 756 + n, "content": text, **plain} for n, text in enumerate(controls)],
        beginning(controls[0], 756),
    )
    content["model"]["ignore_merges"] = True
    (folder / "tokenizer.json").write_text(json.dumps(content))
    settings = {"bos_token": controls[0], "eos_token": controls[1], "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def save_source(folder: Path, *, weights: dict[str, np.ndarray] | None = None, **changes: Any) -> Path:
    source = save_tiny(folder, weights=weights, **{**SMALL, **changes})
    save_letters_tokenizer(source)
    return source


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save_source(tmp_path / "source")


def interleaved(name: str, weight: np.ndarray) -> np.ndarray:
    """Rows in llama.cpp's order: row 2i of a head is its row i, row 2i + 1 its row i + half."""
    heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
    if not heads:
        return weight
    return weight[np.arange(weight.shape[0]).reshape(heads, 2, -1).transpose(0, 2, 1).reshape(-1)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_gguf_package_reads_what_its_own_quantizer_makes_of_the_weights(
    source: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama3_mlx.convert.pipeline.BLOCK_VALUES", 27 * 128)
    convert(source, tmp_path / "out.gguf", gguf_type=kind, verify=True)
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    names = {
        theirs: name
        for name in load_file(source / "model.safetensors")
        if (theirs := gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2).get_name(name, (".weight",)))
    }
    assert tensors.keys() == {*names, "rope_freqs.weight"}
    for theirs, name in names.items():
        weight = interleaved(name, load_file(source / "model.safetensors")[name])
        tied_head = theirs == "token_embd.weight" and kind.startswith("q4")
        type_name = "F32" if weight.ndim == 1 else "Q8_0" if tied_head else kind.upper()
        expected = gguf.quantize(weight, gguf.GGMLQuantizationType[type_name])
        assert tensors[theirs].tensor_type.name == type_name, name
        np.testing.assert_array_equal(np.asarray(tensors[theirs].data), expected, err_msg=name)


def test_the_metadata_says_what_the_config_and_the_tokenizer_say(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out.gguf", gguf_type="q8_0")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    tokens, kinds = fields.pop("tokenizer.ggml.tokens"), fields.pop("tokenizer.ggml.token_type")
    merges = fields.pop("tokenizer.ggml.merges")
    assert fields == {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "out",
        "general.file_type": gguf.LlamaFileType.MOSTLY_Q8_0,
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        "llama.block_count": 2,
        "llama.context_length": 131072,
        "llama.embedding_length": 128,
        "llama.feed_forward_length": 256,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 32,
        "llama.attention.value_length": 32,
        "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
        "llama.rope.freq_base": 500000.0,
        "llama.rope.dimension_count": 32,
        "llama.vocab_size": 768,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.bos_token_id": 756,
        "tokenizer.ggml.eos_token_id": 757,
        "tokenizer.ggml.eot_token_id": 757,
        "tokenizer.chat_template": TEMPLATE,
    }
    assert tokens[256] == "aa"
    assert tokens[756:] == ["<|begin_of_text|>", "<|eot_id|>", *(f"[PAD{token}]" for token in range(758, 768))]
    assert kinds == [gguf.TokenType.NORMAL] * 756 + [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.UNUSED] * 10
    assert merges[:2] == ["a a", "a b"]


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_a_gguf_file_comes_back_as_it_was(tmp_path: Path, factor: float) -> None:
    scaling = {**CONFIG["rope_scaling"], "factor": factor}
    source = save_source(tmp_path / "source", rope_scaling=scaling, tie_word_embeddings=False, attention_bias=True)
    convert(source, tmp_path / "out.gguf", to="gguf", gguf_type="f32")
    convert(tmp_path / "out.gguf", tmp_path / "back", dtype="float32")
    ours, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "back", source))
    assert ours.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_array_equal(ours[name], weight, err_msg=name)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["rope_scaling"] == scaling
    back, whole = Llama.load(tmp_path / "back"), Llama.load(source)
    text = "Some words, 12345 and 日本 <|eot_id|>"
    assert back.tokenizer.encode(text) == whole.tokenizer.encode(text)
    assert back.encode_chat([{"role": "user", "content": text}]) == whole.encode_chat(
        [{"role": "user", "content": text}]
    )


def test_llama_cpp_writes_what_we_write_with_smollm2(smollm2_folder: Path, tmp_path: Path) -> None:
    convert(smollm2_folder, tmp_path / "out.gguf", gguf_type="f16")
    prompt = "Gravity is"
    ours = Llama.load(smollm2_folder).generate(prompt, max_tokens=32, temperature=0)
    assert greedy_text(tmp_path / "out.gguf", prompt, 32) == ours.text


def test_llama_cpp_scales_the_rotation_as_we_do(tmp_path: Path) -> None:
    # A short original context, so that the scaling shows within a hundred positions.
    scaling = {**CONFIG["rope_scaling"], "original_max_position_embeddings": 64}
    changes = {"rope_theta": 1000.0, "max_position_embeddings": 512, "hidden_size": 128}
    weights = {name: w * 3 if w.ndim > 1 else w for name, w in tiny_weights({**CONFIG, **SMALL, **changes}).items()}
    # Bytes and control tokens never win, so that the text shows the tokens.
    weights["model.embed_tokens.weight"][:256] = 0
    weights["model.embed_tokens.weight"][756:] = 0
    scaled = save_source(tmp_path / "scaled", weights=weights, rope_scaling=scaling, **changes)
    plain = save_source(tmp_path / "plain", weights=weights, rope_scaling=None, **changes)
    prompt = [int(token) for token in np.random.default_rng(5).integers(256, 756, 150)]
    texts = {}
    for folder in (scaled, plain):
        llama = Llama.load(folder)
        ids = list(prompt)
        for _ in range(32):
            ids.append(int(np.argmax(np.array(llama.logits(ids)[-1]))))
        texts[folder.name] = llama.tokenizer.decode(ids[len(prompt) :])
        convert(folder, tmp_path / f"{folder.name}.gguf", gguf_type="f32")
    assert texts["scaled"] != texts["plain"]
    assert {name: greedy_text(tmp_path / f"{name}.gguf", prompt, 32) for name in texts} == texts


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_hugging_face_to_mlx_and_back_is_equal(tmp_path: Path, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    source = save_source(tmp_path / "source", torch_dtype=dtype)
    convert(source, tmp_path / "mlx")
    convert(tmp_path / "mlx", tmp_path / "back", to="hf")
    ours: Any = mx.load(str(tmp_path / "back" / "model.safetensors"))
    expected: Any = mx.load(str(source / "model.safetensors"))
    assert ours.keys() == expected.keys()
    assert all(mx.array_equal(ours[name], weight).item() for name, weight in expected.items())
    tokens = torch.tensor([[756, 300, 301, 8, 700]])
    logits = [
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens).logits
        for folder in (tmp_path / "back", source)
    ]
    assert torch.equal(*logits)


def test_a_quantized_folder_is_written_whole_for_transformers(source: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    convert(source, tmp_path / "mlx", bits=8)
    report = convert(tmp_path / "mlx", tmp_path / "hf", to="hf", dtype="float32")
    assert "what that lost doesn't come back" in report.notes[0]
    assert "quantization" not in json.loads((tmp_path / "hf" / "config.json").read_text())
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")(torch.tensor([[300, 301, 302]])).logits[0]
    ours = np.array(Llama.load(tmp_path / "mlx").logits([300, 301, 302]))
    assert np.abs(theirs.detach().numpy() - ours).max() < 1e-4 * np.abs(ours).max()


def test_a_stopped_export_goes_on_and_ends_the_same(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama3_mlx.convert.targets.writer.FLUSH_BYTES", 1)
    convert(source, tmp_path / "whole.gguf", gguf_type="q4_0")

    class Stopping:
        def stage(self, name: str) -> None:
            return

        def start(self, total_tensors: int, total_bytes: int) -> None:
            self.seen = 0

        def advance(self, tensor: str, n_bytes: int, *, finished: bool) -> None:
            self.seen += 1
            if self.seen == 9:
                raise KeyboardInterrupt

    (tmp_path / "again").mkdir()
    dest = tmp_path / "again" / "whole.gguf"
    with pytest.raises(KeyboardInterrupt):
        convert(source, dest, gguf_type="q4_0", progress=Stopping())
    assert not dest.exists()
    assert convert(source, dest, gguf_type="q4_0").resumed_modules >= 8
    assert dest.read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert [path.name for path in dest.parent.iterdir()] == ["whole.gguf"]


def test_a_dry_run_of_an_export_tells_its_size(source: Path, tmp_path: Path) -> None:
    expected = dry_run(source, tmp_path / "out.gguf", gguf_type="q4_1")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    convert(source, tmp_path / "out.gguf", gguf_type="q4_1")
    assert expected.files == {"out.gguf": (tmp_path / "out.gguf").stat().st_size}


def test_an_existing_gguf_file_is_kept_unless_forced(source: Path, tmp_path: Path) -> None:
    dest = tmp_path / "out.gguf"
    dest.write_text("mine")
    with pytest.raises(ConversionError, match="exists already"):
        convert(source, dest)
    assert dest.read_text() == "mine"
    convert(source, dest, force=True)
    assert dest.read_bytes()[:4] == b"GGUF"


def test_rows_that_blocks_do_not_divide_stay_in_f16(tmp_path: Path) -> None:
    source = save_source(tmp_path / "source", hidden_size=144)
    report = convert(source, tmp_path / "out.gguf", gguf_type="q8_0")
    assert "in F16, as the blocks of q8_0 don't divide their rows: model.embed_tokens.weight" in report.notes[0]
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    assert kinds["blk.0.attn_q.weight"] == "F16"
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0"


def test_a_damaged_gguf_file_fails_its_verification(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama3_mlx.convert.gguf.target.read_interleaved", lambda read, _, a, b: -read(a, b))
    with pytest.raises(CheckpointError, match=r"too far from .*: model.layers.0.self_attn.q_proj.weight \(1.4"):
        convert(source, tmp_path / "out.gguf", verify=True)
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("change", "name", "options", "words"),
    [
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "out.gguf", {}, "GGUF has no dynamic rope scaling"),
        ({"vocab_size": 700}, "out.gguf", {}, "tokens that the embedding of 700 rows lacks"),
        (
            {},
            "out.gguf",
            {"bits": 4},
            "bits are for MLX folders; gguf is not quantized by them: choose one of its own types",
        ),
        (
            {},
            "out",
            {"to": "hf", "mode": "mxfp4"},
            "bits are for MLX folders; hf is not quantized by them: leave them out",
        ),
        ({}, "out.gguf", {"dtype": "float16"}, "choose gguf_type f16, bf16 or f32"),
        ({}, "out.gguf", {"gguf_type": "q4_k"}, "gguf_type must be one of f32, .*, q4_0, not 'q4_k'"),
        ({}, "out", {"gguf_type": "q8_0"}, "gguf_type is for gguf files"),
        ({}, "out", {"to": "gguf"}, "a GGUF file's name ends in .gguf"),
        ({}, "out.gguf", {"to": "mlx"}, "out.gguf can't be of kind mlx"),
        ({}, "out", {"to": "onnx"}, "to must be one of mlx, hf, gguf, not 'onnx'"),
    ],
)
def test_what_can_not_be_exported_is_one_line(
    tmp_path: Path, change: dict[str, Any], name: str, options: Any, words: str
) -> None:
    source = save_source(tmp_path / "source", **change)
    with pytest.raises(ConversionError, match=words) as caught:
        convert(source, tmp_path / name, **options)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def save_pieces_tokenizer(folder: Path) -> None:
    """SentencePiece's kind of BPE, trained on a few words: spaces as part of words, bytes for what is unknown."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=specials, show_progress=False)
    words = ["the weights of the model", "a word and another word", "then there were the others"]
    tokenizer.train_from_iterator(words * 20, trainer)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    content = json.loads(tokenizer.to_str())
    # Bytes are ordinary tokens; only the first three are control tokens.
    content["added_tokens"] = content["added_tokens"][:3]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))


def test_a_tokenizer_with_byte_fallback_comes_back_as_it_was(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    source = save_tiny(tmp_path / "source", **{**SMALL, "bos_token_id": 1, "eos_token_id": [2], "rope_scaling": None})
    save_pieces_tokenizer(source)
    convert(source, tmp_path / "out.gguf", gguf_type="f32")
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    assert fields["tokenizer.ggml.model"].contents() == "llama"
    kinds = fields["tokenizer.ggml.token_type"].contents()
    assert kinds[:4] == [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL, gguf.TokenType.BYTE]
    convert(tmp_path / "out.gguf", tmp_path / "back")
    ours, theirs = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (tmp_path / "back", source))
    texts = ["the weights", "another  word é 日本", "then", " a the\nothers", "zzz"]
    expected = [theirs.encode(text).ids for text in texts]
    assert [ours.encode(text).ids for text in texts] == expected
    assert prompt_lengths(tmp_path / "out.gguf", texts) == [len(ids) for ids in expected]


def test_a_tokenizer_of_another_kind_is_refused(source: Path, tmp_path: Path) -> None:
    content = json.loads((source / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "NFC"}
    (source / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConversionError, match="the tokenizer splits text in a way that GGUF export doesn't know"):
        convert(source, tmp_path / "out.gguf")
    (source / "tokenizer.json").write_text('{"model": {"type": "Unigram", "vocab": [["a", -1.0]]}}')
    with pytest.raises(TokenizerError, match=r"tokenizer.json is a Unigram tokenizer that is not supported"):
        convert(source, tmp_path / "out.gguf")
    (source / "tokenizer.json").unlink()
    with pytest.raises(ConversionError, match=r"no tokenizer.json"):
        convert(source, tmp_path / "out.gguf")
