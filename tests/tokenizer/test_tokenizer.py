"""Token ids and text against Meta's own tokenizer and the tokenizers package."""

import json
import random
import shutil
from pathlib import Path

import pytest
import tokenizers
import transformers

from llama3_mlx.checkpoint.folder import ModelFolder
from llama3_mlx.convert import convert
from llama3_mlx.convert.sources.tokenizer_json import byte_level_json
from llama3_mlx.errors import ConversionError, TokenizerError
from llama3_mlx.tokenizer.llama3 import special_tokens
from llama3_mlx.tokenizer.loading import load_tokenizer
from llama3_mlx.tokenizer.tokenizer import Tokenizer

from ..support.llama3_tokenizer import MODEL_FILE, meta_tokenizer
from ..support.tiny_model import save_tiny
from ..support.tokenizer_fixtures import save_sentencepiece_bpe

# Of Meta's tests (llama_models/llama3/tests) and of runs of its tokenizer.
VECTORS = {
    "This is a test sentence.": [2028, 374, 264, 1296, 11914, 13],
    "Hello world": [9906, 1917],
    "hello  world\n\n  x": [15339, 220, 1917, 271, 220, 865],
    "12345678": [4513, 10961, 2495],
    "I'LL don't": [40, 6, 4178, 1541, 956],
    "你好，世界": [57668, 53901, 3922, 102616],
    "🦙": [9468, 99, 247],
    "<|eot_id|>": [27, 91, 68, 354, 851, 91, 29],
}


@pytest.fixture(scope="module")
def llama3(llama3_folder: Path) -> Tokenizer:
    return load_tokenizer(llama3_folder)


@pytest.fixture(scope="module")
def smollm2(smollm2_folder: Path) -> Tokenizer:
    return load_tokenizer(smollm2_folder)


def random_texts(count: int) -> list[str]:
    """Texts of all planes, long runs of white space, digits, control characters, pieces of control tokens."""
    chance = random.Random(0)
    planes = [(0x20, 0x7E), (0, 0x1F), (0x80, 0x24F), (0x300, 0x36F), (0x590, 0x6FF), (0x900, 0xDFF)]
    planes += [(0x2000, 0x2FFF), (0x3040, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xFFFD), (0x10000, 0x10FFFF)]
    spaces = [" ", "\n", "\r\n", "\t", "\u00a0", "\u2003", "\u3000", "\x0b", "\x85"]
    special = ["<|eot_id|>", "<|", "|>", "<|begin_of_text|>", "'s", "'LL", " don't", "0123456789"]

    def part() -> str:
        kind = chance.random()
        if kind < 0.2:
            return chance.choice(spaces) * chance.randint(1, 40)
        if kind < 0.3:
            return chance.choice(special)
        if kind < 0.45:
            return "".join(chance.choices("0123456789", k=chance.randint(1, 12)))
        low, high = chance.choice(planes)
        return "".join(chr(chance.randint(low, high)) for _ in range(chance.randint(1, 12)))

    return ["".join(part() for _ in range(chance.randint(1, 8))) for _ in range(count)]


@pytest.mark.parametrize("text", VECTORS)
def test_metas_test_vectors(llama3: Tokenizer, text: str) -> None:
    assert llama3.encode(text) == VECTORS[text]
    assert llama3.encode(text, bos=True) == [128000, *VECTORS[text]]


def test_ids_equal_metas_on_ten_thousand_random_texts(llama3: Tokenizer) -> None:
    meta = meta_tokenizer()
    for text in random_texts(10_000):
        ids = llama3.encode(text)
        assert ids == meta.encode(text, bos=False, eos=False), repr(text)
        assert llama3.decode(ids) == text


@pytest.mark.parametrize("text", ["a" * 120_000, " " * 60_000 + "b" * 30_000, "x y " * 110_000, "\n" * 25_001 + "ab"])
def test_very_long_runs_are_cut_where_meta_cuts_them(llama3: Tokenizer, text: str) -> None:
    assert llama3.encode(text) == meta_tokenizer().encode(text, bos=False, eos=False)


def test_both_files_give_the_same_tokenizer(llama3: Tokenizer, tmp_path: Path) -> None:
    shutil.copy(MODEL_FILE, tmp_path / "tokenizer.model")
    from_model_file = load_tokenizer(tmp_path)
    assert from_model_file.control_tokens == llama3.control_tokens == special_tokens()
    assert from_model_file.bos_id == llama3.bos_id == 128000
    assert set(from_model_file.stop_ids) == set(llama3.stop_ids) == {128001, 128008, 128009}
    for text in random_texts(500):
        assert from_model_file.encode(text) == llama3.encode(text)


def test_control_tokens_have_metas_ids(llama3: Tokenizer) -> None:
    meta = meta_tokenizer().special_tokens
    for name in ("begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eom_id", "eot_id", "python_tag"):
        assert llama3.control_tokens[f"<|{name}|>"] == meta[f"<|{name}|>"]


def test_the_json_file_means_the_same_to_the_tokenizers_package(llama3: Tokenizer, llama3_folder: Path) -> None:
    reference = tokenizers.Tokenizer.from_file(str(llama3_folder / "tokenizer.json"))
    reference.encode_special_tokens = True
    for text in random_texts(1000):
        assert reference.encode(text, add_special_tokens=False).ids == llama3.encode(text)
    assert reference.encode("x").ids == llama3.encode("x", bos=True)


def test_a_layout_with_merges_before_the_vocabulary_reads_the_same(
    llama3: Tokenizer, llama3_folder: Path, tmp_path: Path
) -> None:
    content = json.loads((llama3_folder / "tokenizer.json").read_text())
    content["model"] = {"merges": content["model"].pop("merges"), **content["model"]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    shutil.copy(llama3_folder / "tokenizer_config.json", tmp_path)
    again = load_tokenizer(tmp_path)
    assert [again.encode(text) for text in VECTORS] == list(VECTORS.values())
    assert again.control_tokens == llama3.control_tokens


def test_words_added_to_the_vocabulary_stay_words(llama3_folder: Path, tmp_path: Path) -> None:
    content = json.loads((llama3_folder / "tokenizer.json").read_text())
    content["added_tokens"][13] |= {"content": "<think>", "special": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("a<think>b") == [64, 128013, 65]
    assert tokenizer.decode([64, 128013, 65], control=False) == "a<think>b"
    assert "<think>" not in tokenizer.control_tokens


def test_other_byte_level_tokenizers_equal_the_tokenizers_package(smollm2: Tokenizer, smollm2_folder: Path) -> None:
    reference = tokenizers.Tokenizer.from_file(str(smollm2_folder / "tokenizer.json"))
    reference.encode_special_tokens = True
    for text in random_texts(1000):
        ids = smollm2.encode(text)
        assert ids == reference.encode(text, add_special_tokens=False).ids
        # Its vocabulary lacks bytes of the higher planes, so not every text comes back.
        assert smollm2.decode(ids) == reference.decode(ids)
    assert smollm2.encode("x", bos=True) == smollm2.encode("x"), "its own post-processor adds none"
    assert set(smollm2.stop_ids) == {0, 2}


def test_a_lone_surrogate_counts_as_the_replacement_character(llama3: Tokenizer, smollm2: Tokenizer) -> None:
    for tokenizer in (llama3, smollm2):
        assert tokenizer.encode("a\ud800b") == tokenizer.encode("a\ufffdb")


@pytest.mark.parametrize("name", ["llama3", "smollm2"])
def test_streamed_text_equals_the_decoded_and_never_has_half_a_character(
    name: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(name)
    for text in [" leading space", "🦙🦙 llamas", *random_texts(300)]:
        ids = tokenizer.encode(text)
        whole = tokenizer.decode(ids)
        detokenizer = tokenizer.make_detokenizer()
        pieces = [detokenizer.add(token) for token in ids]
        assert "".join(pieces) + detokenizer.finish() == whole
        if "\ufffd" not in whole:
            assert not any("\ufffd" in piece for piece in pieces)


def test_an_unfinished_character_comes_out_as_the_replacement_character(llama3: Tokenizer) -> None:
    detokenizer = llama3.make_detokenizer()
    assert [detokenizer.add(token) for token in (9468, 99)] == ["", ""]
    assert detokenizer.finish() == "\ufffd" == llama3.decode([9468, 99])


def test_decoding_shows_or_leaves_out_control_tokens(llama3: Tokenizer) -> None:
    ids = [128000, 9906, 128009]
    assert llama3.decode(ids) == "<|begin_of_text|>Hello<|eot_id|>"
    assert llama3.decode(ids, control=False) == "Hello"


def test_what_the_tokenizers_package_panics_on_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    """A panic of its Rust code is a BaseException, which nothing that catches Exception holds."""
    values = json.loads((save_sentencepiece_bpe(tmp_path) / "tokenizer.json").read_text())
    values["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(BaseException, match="charsmap") as raised:
        tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert not isinstance(raised.value, Exception)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json can't be read: .*charsmap") as told:
        load_tokenizer(tmp_path)
    assert "\n" not in str(told.value)


def test_a_sentencepiece_style_bpe_decodes_with_its_spaces(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(save_sentencepiece_bpe(tmp_path) / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    for text in ("ab a", "ab é🦙 </s>", "  ab"):
        ids = tokenizer.encode(text)
        assert ids == backend.encode(text, add_special_tokens=False).ids or "</s>" in text
        assert tokenizer.decode(ids) == text
        detokenizer = tokenizer.make_detokenizer()
        assert "".join(map(detokenizer.add, ids)) + detokenizer.finish() == text
    assert 2 not in tokenizer.encode("</s>")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tokenizer.json", "{", "can't be read"),
        ("tokenizer.json", "[]", "has no model"),
        ("tokenizer.json", '{"model": {"type": "Unigram"}, "added_tokens": []}', "can't be read|not supported"),
        ("tokenizer.json", '{"model": {}, "added_tokens": [{"id": 1}]}', "added_tokens is damaged"),
        ("tokenizer.model", "not base64!", "line 1"),
        ("tokenizer.model", "IQ== 0\n", "has 1 tokens"),
    ],
)
def test_unreadable_tokenizers_are_refused_in_one_line(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(TokenizerError, match=words) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def save_byte_level(folder: Path, ids: dict[str, int], *, words: dict[str, int] | None = None) -> Path:
    """Write a tokenizer of bytes with added tokens, and words of the vocabulary, under the ids given."""
    alphabet = {letter: at for at, letter in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    merges = [f"{word[0]} {word[1]}" for word in words or {}]
    content = byte_level_json([], {**alphabet, **(words or {})}, merges, [], None)
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"] = [{"id": token, "content": text, **plain} for text, token in ids.items()]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|a|>", "eos_token": "<|b|>"})
    )
    return folder


@pytest.mark.parametrize(
    "ids",
    [
        {"<|a|>": 256, "<|b|>": 66},  # one of the vocabulary's
        {"<|a|>": 256, "<|b|>": 256},  # one twice
        {"<|a|>": 300, "<|b|>": 310},  # a gap before them
        {"<|a|>": 257, "<|b|>": 256},  # not in order
        {"c": 256, "<|a|>": 257, "<|b|>": 258},  # a text that the vocabulary has
        {"<|a|>": 256, "<|b|>": 257},
    ],
)
def test_added_tokens_have_the_ids_of_the_tokenizers_package_with_a_note_where_the_file_says_others(
    tmp_path: Path, ids: dict[str, int]
) -> None:
    """The references are tokenizers and transformers, which take no notice of an entry's id."""
    save_byte_level(tmp_path, ids)
    reference = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    opened = ModelFolder(tmp_path)
    ours = load_tokenizer(opened)
    for text in ids:
        assert ours.control_tokens[text] == reference.token_to_id(text) == theirs.convert_tokens_to_ids(text)
    assert ours.bos_id == theirs.bos_token_id
    for tokens in ([64, 65, 66], [256, 66, 257]):
        assert ours.decode(tokens) == reference.decode(tokens, skip_special_tokens=False)
    differ = [text for text, token in ids.items() if token != reference.token_to_id(text)]
    assert len(opened.notes) == bool(differ)
    assert all(repr(differ[0]) in note for note in opened.notes)
    save_tiny(tmp_path / "model", vocab_size=320, bos_token_id=256, eos_token_id=[257])
    save_byte_level(tmp_path / "model", ids)
    if differ:
        with pytest.raises(ConversionError, match=r"contradicts itself .* has the id \d+"):
            convert(tmp_path / "model", tmp_path / "out.gguf")


def test_two_texts_under_one_id_of_the_vocabulary_are_refused(tmp_path: Path) -> None:
    """The tokenizers package decodes such an id to either text, another one in each process."""
    save_byte_level(tmp_path, {"<|a|>": 257}, words={"ab": 66})
    with pytest.raises(TokenizerError, match=r"has 'c' and 'ab' under one id, 66: nothing says which"):
        load_tokenizer(tmp_path)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="neither tokenizer"):
        load_tokenizer(tmp_path)
