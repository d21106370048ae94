"""What is given as a model and isn't quite one: recognized, read with a note, or refused with the way out."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama3_mlx import Llama
from llama3_mlx.checkpoint.folder import ModelFolder
from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.convert import convert
from llama3_mlx.errors import Llama3MLXError, RequestError, TokenizerError
from llama3_mlx.tokenizer.loading import load_tokenizer

from ..support.tiny_model import save_tiny
from .contradictions import CONFIG, Checkpoint, random_tensors


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Checkpoint(dict(CONFIG), random_tensors()).write(tmp_path / "model")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, smollm2_folder: Path) -> Path:
    """Two layers with SmolLM2's tokenizer, whose embedding has a row for each of its 49,152 tokens."""
    folder = save_tiny(tmp_path_factory.mktemp("small") / "model", vocab_size=49152, bos_token_id=1, eos_token_id=2)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(smollm2_folder / name, folder / name)
    return folder


def copied(folder: Path, place: Path) -> Path:
    shutil.copytree(folder, place)
    return place


def rewritten(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refusal(folder: Path) -> str:
    with pytest.raises(Llama3MLXError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return str(caught.value)


def test_an_adapter_given_as_a_model_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file(
        {"base_model.model.model.layers.0.q.lora_A.weight": np.ones((2, 2))}, tmp_path / "adapter_model.safetensors"
    )
    assert "is an adapter, not a model: name its base model with -m" in refusal(tmp_path)


def test_weights_with_an_adapter_that_isn_t_merged_are_told_apart(model: Path) -> None:
    tensors = {
        "model.embed_tokens.weight": np.ones((4, 4)),
        "model.layers.0.q_proj.lora_A.default.weight": np.ones((2, 2)),
    }
    save_file(tensors, model / "model.safetensors")
    assert "merge_and_unload" in refusal(model)


def test_a_draft_head_is_told_apart(model: Path) -> None:
    save_file(
        {"fc.weight": np.ones((4, 8)), "layers.0.mlp.up_proj.weight": np.ones((4, 4))}, model / "model.safetensors"
    )
    assert "draft head (EAGLE)" in refusal(model)


def test_fp8_weights_are_told_apart(model: Path) -> None:
    tensors = {"model.layers.0.mlp.up_proj.weight": torch.ones(4, 4).to(torch.float8_e4m3fn)}
    from safetensors.torch import save_file as save_torch

    save_torch(tensors, model / "model.safetensors")
    assert "weights quantized by FP8 can't be run: convert them with llama3-mlx convert, or take" in refusal(model)


def test_git_lfs_pointers_are_told_apart(model: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2471645608\n"
    (model / "model.safetensors").write_text(pointer)
    assert f"is a Git LFS pointer, not the weights themselves: run 'git lfs pull' in {model}" in refusal(model)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_a_tokenizer_that_is_a_git_lfs_pointer_is_told_apart(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9085657\n")
    with pytest.raises(TokenizerError, match=f"{name} is a Git LFS pointer, not the tokenizer itself: run 'git lfs"):
        load_tokenizer(tmp_path)


def test_few_of_many_tensors_are_named(tmp_path: Path) -> None:
    tensors = {f"model.text.{name}": tensor for name, tensor in random_tensors().items()}
    assert "there are 0 layers; missing: " in refusal(Checkpoint(dict(CONFIG), tensors).write(tmp_path / "model"))


def test_what_macos_writes_beside_files_on_other_disks_is_no_weights(model: Path) -> None:
    ids = mx.array([[1, 2]])
    before = load_model(model)(ids)
    (model / "._model.safetensors").write_bytes(b"\0\5\x16\7" + bytes(100))
    (model / "model.safetensors").rename(model / "weights.safetensors")
    (model / "._weights.safetensors").write_bytes(b"\0\5\x16\7" + bytes(100))
    assert mx.array_equal(load_model(model)(ids), before)


def test_a_model_in_a_folder_whose_name_is_not_utf8_is_loaded(model: Path) -> None:
    odd = model.rename(os.fsdecode(os.fsencode(model) + b"\xff"))
    loaded, ids = load_model(odd), mx.array([[1, 2]])
    odd.rename(model)
    assert mx.array_equal(loaded(ids), load_model(model)(ids))


def test_gguf_files_given_as_a_model_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "model-Q4_K_M.GGUF").write_bytes(b"GGUF")
    assert f"llama3-mlx convert {tmp_path / 'model-Q4_K_M.GGUF'} DEST" in refusal(tmp_path)


def test_pytorch_files_and_meta_s_are_told_apart(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "has PyTorch weights (pytorch_model.bin)" in refusal(model)
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "params.json").write_text("{}")
    assert "holds Meta's own files: convert them first" in refusal(tmp_path / "meta")


def test_notes_reach_the_loaded_model_and_a_conversion_s_report(small: Path, tmp_path: Path) -> None:
    folder = copied(small, tmp_path / "model")
    rewritten(folder / "config.json", lambda config: config.update(torch_dtype="bfloat16"))
    note = "config.json says bfloat16, the weights are float16: they are read as float16"
    with Llama.load(folder, disk_cache=False) as llama:
        assert llama.notes == (note,)
    assert note in convert(folder, tmp_path / "out").notes


def beyond(small: Path, place: Path) -> Path:
    """The model with a tokenizer whose token 49152 has no row in the embedding."""
    folder = copied(small, place)
    token = {"id": 49152, "content": "<note>", "special": False, "normalized": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    rewritten(folder / "tokenizer.json", lambda content: content["added_tokens"].append({**token, **flags}))
    return folder


def test_a_text_beyond_the_embedding_is_refused_with_both_numbers_and_others_are_not(
    small: Path, tmp_path: Path
) -> None:
    folder = beyond(small, tmp_path / "model")
    # What transformers says of the same text.
    reference, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with pytest.raises(IndexError):
        reference(torch.tensor([tokenizer.encode("Hello <note> there")]))
    with Llama.load(folder, disk_cache=False) as llama:
        assert "the embedding has 49152 rows" in llama.notes[0]
        assert "the first '<note>' (49152)" in llama.notes[0]
        assert llama.tokenizer.encode("Hello there") == tokenizer.encode("Hello there")
        for ask in (llama.tokenizer.encode, lambda text: llama.encode_chat([{"role": "user", "content": text}])):
            with pytest.raises(RequestError, match=r"'<note>', id 49152, and the model's embedding has 49152 rows"):
                ask("Hello <note> there")


def test_a_conversion_says_that_the_tokenizer_goes_beyond_the_embedding(small: Path, tmp_path: Path) -> None:
    notes = convert(beyond(small, tmp_path / "model"), tmp_path / "out", bits=4).notes
    assert any("has 49152 rows" in note and "49152)" in note for note in notes)


def test_logits_of_ids_outside_the_vocabulary_are_refused(small: Path) -> None:
    with Llama.load(small, disk_cache=False) as llama:
        for ids in ([5, 10**8, 7], [-1], [49152]):
            with pytest.raises(RequestError, match="outside the vocabulary of 49152"):
                llama.logits(ids)


def in_two_files(smollm2_folder: Path, place: Path, kind: str | None = "GPT2Tokenizer") -> Path:
    """SmolLM2's vocabulary in GPT-2's files, without a tokenizer.json."""
    place.mkdir(exist_ok=True)
    content = json.loads((smollm2_folder / "tokenizer.json").read_text())["model"]
    (place / "vocab.json").write_text(json.dumps(content["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["merges"]]
    (place / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    settings = {"tokenizer_class": kind, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    shutil.copy(smollm2_folder / "config.json", place / "config.json")
    return place


def test_vocab_json_and_merges_txt_are_read_as_transformers_reads_them(smollm2_folder: Path, tmp_path: Path) -> None:
    folder = in_two_files(smollm2_folder, tmp_path / "model")
    ours, reference = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for text in ("Hello 2024 world", "  def f(x):\n\treturn x", "äöü 你好 🦙", "it's I'LL 12345"):
        ids = ours.encode(text)
        assert ids == reference.encode(text, add_special_tokens=False)
        assert ours.decode(ids) == text
    assert ours.control_tokens["<|im_end|>"] == reference.convert_tokens_to_ids("<|im_end|>")
    assert ours.stop_ids == (2,)


def test_a_conversion_writes_them_as_a_tokenizer_json(small: Path, smollm2_folder: Path, tmp_path: Path) -> None:
    folder = in_two_files(smollm2_folder, copied(small, tmp_path / "model"))
    (folder / "tokenizer.json").unlink()
    shutil.copy(small / "config.json", folder / "config.json")
    convert(folder, tmp_path / "out", bits=4)
    ours, reference = load_tokenizer(tmp_path / "out"), AutoTokenizer.from_pretrained(folder)
    assert ours.encode("Hello 2024 world") == reference.encode("Hello 2024 world", add_special_tokens=False)


def sentencepiece_alone(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")


def cut_short(folder: Path) -> None:
    content = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(content[: len(content) // 2])


def unigram(folder: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0)).save(str(folder / "tokenizer.json"))


def without_a_class(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "vocab.json").write_text('{"a": 0}')
    (folder / "merges.txt").write_text("#version: 0.2\n")


@pytest.mark.parametrize("spoil", [sentencepiece_alone, cut_short, unigram, without_a_class])
def test_a_tokenizer_that_can_t_be_used_is_found_before_a_conversion(
    small: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    folder = copied(small, tmp_path / "model")
    spoil(folder)
    with pytest.raises(TokenizerError, match="move the tokenizer's files away to convert the weights alone") as caught:
        convert(folder, tmp_path / "out", bits=4)
    assert str(folder) in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.partial").exists()


def test_each_json_file_is_read_once(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    read = Path.read_text

    def counted(path: Path, *args: Any, **keywords: Any) -> str:
        seen.append(path.name)
        return read(path, *args, **keywords)

    monkeypatch.setattr(Path, "read_text", counted)
    opened = ModelFolder(small)
    model = load_model(opened)
    load_tokenizer(opened)
    assert model(mx.array([[1]])).shape == (1, 1, 49152)
    assert sorted(seen) == sorted(set(seen))
    assert "config.json" in seen
