"""Conversion of Meta's checkpoints: files that torch wrote, against the conversion of the same weights from HF."""

import collections
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llama3_mlx import CheckpointError, Llama, Llama3MLXError, TokenizerError
from llama3_mlx.checkpoint.torch_file import TorchFile
from llama3_mlx.convert import convert
from llama3_mlx.convert.sources.tokenizer_json import tokenizer_json

from ..support.llama3_tokenizer import MODEL_FILE, meta_tokenizer
from ..support.meta_checkpoint import save_meta
from ..support.tiny_model import CONFIG, save_tiny, tiny_weights

# Vocabulary and widths divide by 16; 16 query and 8 key/value heads of 16.
SHAPE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 16,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 128000,
}


def both(
    folder: Path, n_shards: int, *, kv_copies: int = 1, repeat_head: bool = False, **changes: Any
) -> tuple[Path, Path]:
    """The same random model in Hugging Face's and in Meta's form."""
    config = {**CONFIG, **SHAPE, **changes}
    weights = tiny_weights(config)
    hf = save_tiny(folder / "hf", weights=weights, **{**SHAPE, **changes})
    if repeat_head:
        weights = {**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}
    return hf, save_meta(folder / "meta", weights, config, n_shards, kv_copies=kv_copies)


@pytest.fixture(autouse=True)
def metas_tokenizer_is_made_once(llama3_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give for Meta's own tokenizer.model, which takes seconds to turn, what was made of it before."""
    made, content = (llama3_folder / "tokenizer.json").read_text(), MODEL_FILE.read_bytes()
    monkeypatch.setattr(
        "llama3_mlx.convert.sources.meta.tokenizer_json",
        lambda file: made if file.read_bytes() == content else tokenizer_json(file),
    )


@pytest.mark.parametrize(
    ("n_shards", "kv_copies", "dtype"),
    [(1, 1, "bfloat16"), (2, 1, "float16"), (8, 1, "float16"), (16, 2, "bfloat16")],
)
def test_metas_shards_become_what_the_hugging_face_folder_becomes(
    tmp_path: Path, n_shards: int, kv_copies: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks of rows then end within heads and within shards.
    monkeypatch.setattr("llama3_mlx.convert.pipeline.BLOCK_VALUES", 37 * 256)
    hf, meta = both(tmp_path, n_shards, kv_copies=kv_copies, torch_dtype=dtype)
    convert(hf, tmp_path / "from-hf", bits=4)
    convert(meta, tmp_path / "from-meta", bits=4)
    ours, expected = (tmp_path / name / "model.safetensors" for name in ("from-meta", "from-hf"))
    assert ours.read_bytes() == expected.read_bytes()
    config, reference = (json.loads((p.parent / "config.json").read_text()) for p in (ours, expected))
    assert config == reference


def test_metas_files_in_the_subfolder_of_a_repository_are_found(tmp_path: Path) -> None:
    hf, meta = both(tmp_path, 1)
    (tmp_path / "repository").mkdir()
    meta.rename(tmp_path / "repository" / "original")
    convert(hf, tmp_path / "from-hf", bits=4)
    convert(tmp_path / "repository", tmp_path / "from-meta", bits=4)
    ours, expected = (tmp_path / name / "model.safetensors" for name in ("from-meta", "from-hf"))
    assert ours.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize(("dim", "factor"), [(2048, 32.0), (256, 8.0)])
def test_a_head_that_repeats_the_embedding_is_dropped(tmp_path: Path, dim: int, factor: float) -> None:
    small = {"num_hidden_layers": 1, "hidden_size": dim, "head_dim": dim // 16, "intermediate_size": 64}
    _, meta = both(tmp_path, 1, repeat_head=True, tie_word_embeddings=True, **small)
    report = convert(meta, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    assert config["rope_scaling"]["factor"] == factor
    assert report.parameters == sum(
        w.size for w in tiny_weights({**CONFIG, **SHAPE, **small, **{"tie_word_embeddings": True}}).values()
    )


def test_the_tokenizer_and_the_stops_are_metas(tmp_path: Path) -> None:
    _, meta = both(tmp_path, 2, vocab_size=128256, hidden_size=64, head_dim=4, num_hidden_layers=1, rope_scaling=None)
    convert(meta, tmp_path / "out", bits=4)
    llama = Llama.load(tmp_path / "out")
    text = "Grüße, 12345 worlds!\n\n  <|eot_id|>"
    assert llama.tokenizer.encode(text) == meta_tokenizer().encode(text, bos=False, eos=False, disallowed_special=())
    assert {128001, 128009} <= llama.stop_ids
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    messages = [{"role": "user", "content": "Hi"}]
    rendered: Any = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert rendered == llama.encode_chat(messages)
    assert (tmp_path / "out" / "LICENSE").read_text() == "the license"
    assert (tmp_path / "out" / "tokenizer.model").exists()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["max_position_embeddings"] == 8192
    assert "rope_scaling" not in config


def test_rows_of_a_view_into_a_larger_storage_are_its_own(tmp_path: Path) -> None:
    whole = torch.arange(60, dtype=torch.float32).reshape(10, 6)
    torch.save({"part": whole[3:7], "other": whole}, tmp_path / "x.pth")
    file = TorchFile(tmp_path / "x.pth")
    np.testing.assert_array_equal(file.read("part", 1, 3), whole[4:6].numpy())
    file.close()


# Bad input.


class Harmful:
    """Its pickle calls a function."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        return self.call, self.arguments


def put_pickle(path: Path, value: Any, protocol: int = 2) -> None:
    """Replace the pickle of a file that torch wrote."""
    with zipfile.ZipFile(path) as old:
        held = {entry.filename: old.read(entry) for entry in old.infolist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in held.items():
            new.writestr(name, pickle.dumps(value, protocol) if name.endswith("data.pkl") else data)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("kind", ["system", "eval", "import", "nested", "getattr"])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path: Path, kind: str, protocol: int) -> None:
    import builtins
    import os

    _, meta = both(tmp_path, 1)
    trace = tmp_path / "trace"
    harmful = {
        "system": Harmful(os.system, f"touch {trace}"),
        "eval": Harmful(eval, f"open({str(trace)!r}, 'w')"),
        "import": Harmful(builtins.__import__, "this"),
        "nested": collections.OrderedDict(a=[{"b": Harmful(os.system, f"touch {trace}")}]),
        "getattr": Harmful(getattr, collections.OrderedDict, "fromkeys"),
    }[kind]
    put_pickle(meta / "consolidated.00.pth", harmful, protocol)
    with pytest.raises(CheckpointError, match=r"is refused: its pickle asks for .*; nothing of it was run") as caught:
        convert(meta, tmp_path / "out", bits=4)
    assert "\n" not in str(caught.value)
    assert not trace.exists()
    assert not (tmp_path / "out").exists()


def spoil(kind: str, tmp_path: Path) -> Path:
    _, meta = both(tmp_path, 2)
    first, second, params = meta / "consolidated.00.pth", meta / "consolidated.01.pth", meta / "params.json"
    state = torch.load(second)
    norm, matrix = "layers.1.ffn_norm.weight", "layers.1.feed_forward.w1.weight"
    if kind == "first shard missing":
        first.unlink()
    elif kind == "last shard missing":
        second.unlink()
    elif kind == "shard of the same shape from another model":
        torch.save({**state, norm: state[norm] + 1}, second)
    elif kind == "shard of another shape":
        torch.save({**state, matrix: state[matrix][1:].clone()}, second)
    elif kind == "tensor missing":
        for path in (first, second):
            held = torch.load(path)
            del held[matrix]
            torch.save(held, path)
    elif kind == "cut short":
        second.write_bytes(second.read_bytes()[:-5000])
    elif kind == "old format":
        torch.save(state, second, _use_new_zipfile_serialization=False)
    elif kind == "no params":
        params.unlink()
    elif kind == "params of another model":
        params.write_text(json.dumps({**json.loads(params.read_text()), "dim": 4096, "n_heads": 32}))
    elif kind == "no tokenizer":
        (meta / "tokenizer.model").unlink()
    elif kind == "turned tensor":
        torch.save({**state, matrix: state[matrix].T.contiguous().T}, second)
    elif kind == "integers":
        torch.save({**state, matrix: state[matrix].to(torch.int32)}, second)
    elif kind == "a list":
        torch.save([state[norm]], second)
    elif kind == "infinity":
        state[matrix][3, 4] = float("inf")
        torch.save(state, second)
    return meta


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("first shard missing", "lacks consolidated.00.pth"),
        ("last shard missing", "1 shard of 128 query rows don't make the 256 of params.json: 2 shards are due"),
        (
            "shard of the same shape from another model",
            r"consolidated.01.pth isn't of the same model as consolidated.00.pth: .*post_attention_layernorm.* differs",
        ),
        (
            "shard of another shape",
            r"consolidated.01.pth isn't of the same model as consolidated.00.pth: layers.1.feed",
        ),
        ("tensor missing", "missing: model.layers.1.mlp.gate_proj.weight"),
        ("cut short", "cut short, damaged"),
        ("old format", "torch's old format"),
        ("no params", "no params.json"),
        ("params of another model", "don't make the 4096 of params.json"),
        ("no tokenizer", "lacks tokenizer.model"),
        ("turned tensor", "isn't contiguous"),
        ("integers", "asks for torch.IntStorage"),
        ("a list", "is not a state dict"),
        ("infinity", "model.layers.1.mlp.gate_proj.weight holds NaN or infinity"),
    ],
)
def test_bad_checkpoints_are_one_line_and_leave_nothing_finished(tmp_path: Path, kind: str, words: str) -> None:
    meta = spoil(kind, tmp_path)
    with pytest.raises(Llama3MLXError, match=words) as caught:
        convert(meta, tmp_path / "out", bits=4)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "meta"]


def test_a_damaged_tokenizer_is_found_before_the_weights_are_read(tmp_path: Path) -> None:
    _, meta = both(tmp_path, 1)
    (meta / "tokenizer.model").write_text("no token")

    class Idle:
        def stage(self, name: str) -> None:
            return

        def start(self, total_tensors: int, total_bytes: int) -> None:
            raise AssertionError("weights are read")

        def advance(self, tensor: str, n_bytes: int, *, finished: bool) -> None:
            return

    with pytest.raises(TokenizerError, match=r"tokenizer.model, line 1"):
        convert(meta, tmp_path / "out", bits=4, progress=Idle())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf", "meta"]


def test_key_and_value_heads_that_are_no_copies_are_refused(tmp_path: Path) -> None:
    _, meta = both(tmp_path, 16, kv_copies=2)
    state = torch.load(meta / "consolidated.05.pth")
    state["layers.0.attention.wv.weight"][0, 0] += 1
    torch.save(state, meta / "consolidated.05.pth")
    with pytest.raises(CheckpointError, match=r"layers.0.self_attn.v_proj.weight: its key/value heads aren't stored 2"):
        convert(meta, tmp_path / "out")


def test_no_flipped_byte_in_the_pickle_brings_more_than_one_line(tmp_path: Path) -> None:
    torch.save({f"t{i}": torch.ones(4, 8) for i in range(3)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        held = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = next(name for name in held if name.endswith("data.pkl"))
    rng = np.random.default_rng(1)
    outcomes = set()
    for _ in range(400):
        changed = bytearray(held[name])
        for at in rng.integers(0, len(changed), rng.integers(1, 4)):
            changed[at] = rng.integers(0, 256)
        with zipfile.ZipFile(tmp_path / "y.pth", "w") as archive:
            for other, data in held.items():
                archive.writestr(other, bytes(changed) if other == name else data)
        try:
            TorchFile(tmp_path / "y.pth").close()
            outcomes.add("read")
        except Llama3MLXError as error:
            outcomes.add("refused" if "\n" not in str(error) else str(error))
    assert outcomes == {"read", "refused"}
