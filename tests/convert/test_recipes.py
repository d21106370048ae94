"""Which module gets which bits, what is told about it, and the verification of what was written."""

import json
import re
import shutil
import signal
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from llama3_mlx import CheckpointError, ConversionError, Llama3MLXError
from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.cli import main
from llama3_mlx.convert import ConversionOptions, convert, dry_run, verify
from llama3_mlx.convert.quantization.quantizer import RoundToNearest
from llama3_mlx.convert.targets.folder import FolderTarget

from ..support.tiny_model import save_tiny
from .test_pre_tokenizers import save_words_tokenizer

SMALL: dict[str, Any] = {"vocab_size": 512, "num_hidden_layers": 8, "eos_token_id": [1], "bos_token_id": 0}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "source", **SMALL)


@pytest.fixture
def untied(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "untied", tie_word_embeddings=False, **{**SMALL, "num_hidden_layers": 2})


def stored_bits(folder: Path) -> dict[str, int | None]:
    """Bits of each module as its arrays show: packed words of a row, times 32, over the weights of a row."""
    config = json.loads((folder / "config.json").read_text())
    inner = {"o_proj": config["num_attention_heads"] * config["head_dim"], "down_proj": config["intermediate_size"]}
    bits: dict[str, int | None] = {}
    for name, array in load_file(folder / "model.safetensors").items():
        if name.endswith(".weight") and array.ndim == 2:
            path = name.removesuffix(".weight")
            columns = inner.get(path.split(".")[-1], config["hidden_size"])
            bits[path] = array.shape[1] * 32 // columns if array.dtype == np.uint32 else None
    return bits


@pytest.mark.parametrize("recipe", ["3_6", "4_6", "2_6"])
def test_a_mixed_recipe_gives_the_layers_of_mlx_lms_the_high_bits(untied: Path, tmp_path: Path, recipe: str) -> None:
    import mlx_lm.utils
    from mlx_lm.convert import mixed_quant_predicate_builder

    source = save_tiny(tmp_path / "deep", tie_word_embeddings=False, **SMALL)
    convert(source, tmp_path / "out", mixed=recipe)
    model, config = mlx_lm.utils.load_model(source, lazy=True)
    predicate = mixed_quant_predicate_builder(f"mixed_{recipe}", model, 64)
    mlx_lm.utils.quantize_model(model, config, group_size=64, bits=4, quant_predicate=predicate)
    theirs = {path: module.bits for path, module in model.named_modules() if hasattr(module, "bits")}
    assert stored_bits(tmp_path / "out") == theirs


def test_a_tied_embedding_is_the_head_and_gets_the_high_bits(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", mixed="4_6")
    assert stored_bits(tmp_path / "out")["model.embed_tokens"] == 6
    import mlx_lm.utils

    theirs, _ = mlx_lm.utils.load_model(tmp_path / "out")
    theirs.set_dtype(mx.float32)
    tokens = mx.array([[3, 5, 300, 7]])
    expected, ours = theirs(tokens), load_model(tmp_path / "out")(tokens)
    assert (mx.abs(expected - ours).max() < 1e-4 * mx.abs(expected).max()).item()


def test_the_first_rule_that_matches_wins(source: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(
        """
        [[rules]]
        modules = "*.o_proj"
        layers = [2, 3]
        keep = true
        [[rules]]
        modules = ["*.o_proj", "*.v_proj"]
        bits = 8
        group_size = 32
        [[rules]]
        modules = "*.layers.5.*"
        mode = "mxfp4"
        """
    )
    convert(source, tmp_path / "out", bits=4, rules=rules)
    bits = stored_bits(tmp_path / "out")
    assert [bits[f"model.layers.{n}.self_attn.o_proj"] for n in range(8)] == [8, 8, None, None, 8, 8, 8, 8]
    assert {bits[f"model.layers.{n}.self_attn.v_proj"] for n in range(8)} == {8}
    assert bits["model.embed_tokens"] == bits["model.layers.5.mlp.up_proj"] == 4
    entry = json.loads((tmp_path / "out" / "config.json").read_text())["quantization"]
    assert entry["model.layers.5.mlp.up_proj"] == {"bits": 4, "group_size": 32, "mode": "mxfp4"}
    assert entry["model.layers.2.self_attn.o_proj"] is False
    load_model(tmp_path / "out")(mx.array([[1]]))


def test_rules_alone_leave_the_rest_whole(source: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"rules": [{"modules": "*.mlp.*", "bits": 4}]}))
    convert(source, tmp_path / "out", rules=rules)
    bits = stored_bits(tmp_path / "out")
    assert {path for path, held in bits.items() if held} == {path for path in bits if ".mlp." in path}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            '{"rules": [{"modules": "*.q_prj", "bits": 4}]}',
            r"no module matches \*\.q_prj; modules are named like model",
        ),
        ('{"rules": [{"modules": "*", "bit": 4}]}', "rule 1 must be an object with keys of modules, layers, bits"),
        ('{"rules": [{"modules": "*", "bits": 7}]}', "rule 1: .*bits must be one of 2, 3, 4, 5, 6, 8, not 7"),
        ('{"rules": [{"modules": "*", "layers": [3, 1], "bits": 4}]}', "layers must be a first and a last layer"),
        ('{"rules": [{"modules": "*", "keep": true, "bits": 4}]}', "keep must be true, without bits"),
        ('{"rule": []}', "must hold an object with one list, rules"),
        ("{", "can't be read"),
        (None, "can't be read: No such file"),
    ],
)
def test_bad_rule_files_are_one_line(source: Path, tmp_path: Path, content: str | None, words: str) -> None:
    rules = tmp_path / "rules.json"
    if content is not None:
        rules.write_text(content)
    with pytest.raises(Llama3MLXError, match=words) as caught:
        convert(source, tmp_path / "out", bits=4, rules=rules)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_embedding_and_head_are_set_apart(untied: Path, tmp_path: Path) -> None:
    convert(untied, tmp_path / "out", bits=4, embedding_bits=8, head_bits=0)
    bits = stored_bits(tmp_path / "out")
    assert bits.pop("model.embed_tokens") == 8
    assert bits.pop("lm_head") is None
    assert set(bits.values()) == {4}
    load_model(tmp_path / "out")(mx.array([[1]]))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mixed": "6_4"}, "mixed must be LOW_HIGH"),
        ({"mixed": "4_7"}, "mixed must be LOW_HIGH"),
        ({"mixed": "4_6", "bits": 4}, "bits and mixed exclude each other"),
        ({"bits": 4, "head_bits": 8}, "this model's head is its embedding: set embedding_bits in place of head_bits"),
        ({"bits": 4, "embedding_bits": 7}, "embedding_bits must be one of 0, 2, 3, 4, 5, 6, 8, not 7"),
        ({"bits": 4, "dequantize": True}, "dequantize writes unquantized weights"),
        ({"bit": 4}, r"unknown option bit \(did you mean bits\?\); known are bits, group_size"),
    ],
)
def test_settings_that_do_not_agree_are_refused(source: Path, tmp_path: Path, settings: Any, words: str) -> None:
    with pytest.raises(ConversionError, match=words):
        convert(source, tmp_path / "out", **settings)


# Sources that are quantized already.


def test_a_quantized_folder_wants_to_know_what_for(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "four", bits=4)
    with pytest.raises(ConversionError, match="is quantized already: choose bits to quantize it again, or dequantize"):
        convert(tmp_path / "four", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_dequantized_weights_are_what_mlx_says_they_stand_for(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "four", bits=4, group_size=32)
    report = convert(tmp_path / "four", tmp_path / "out", dequantize=True, dtype="float32")
    assert report.notes[:1] == (
        "the source is quantized (affine 4 bits): what that lost doesn't come back; the original weights make a "
        "better model",
    )
    packed: Any = mx.load(str(tmp_path / "four" / "model.safetensors"))
    whole = load_file(tmp_path / "out" / "model.safetensors")
    path = "model.layers.3.mlp.down_proj"
    parts = [packed[f"{path}.{part}"] for part in ("weight", "scales", "biases")]
    expected = mx.dequantize(parts[0], parts[1].astype(mx.float32), parts[2].astype(mx.float32), group_size=32, bits=4)
    np.testing.assert_array_equal(whole[f"{path}.weight"], np.array(expected))
    assert "quantization" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_a_source_whose_levels_are_kept_is_not_said_to_lose_more(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "four", bits=4, group_size=32, quality="rtn")
    report = convert(tmp_path / "four", tmp_path / "again", bits=4, group_size=32)
    assert "(affine 4 bits): its levels are kept as they are" in report.notes[0]
    first, again = (load_file(tmp_path / name / "model.safetensors") for name in ("four", "again"))
    for name in (name.removesuffix(".scales") for name in first if name.endswith(".scales")):
        parts = [
            [mx.array(file[f"{name}.{part}"]) for part in ("weight", "scales", "biases")] for file in (first, again)
        ]
        one, other = (np.array(mx.dequantize(w, scales, biases, 32, 4)) for w, scales, biases in parts)
        np.testing.assert_allclose(other, one, atol=1e-3 * float(np.abs(one).max()))


def test_quantizing_again_warns_and_is_close_to_the_first(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "eight", bits=8)
    report = convert(tmp_path / "eight", tmp_path / "four", bits=4, verify=True)
    assert "quantized already (affine 8 bits), and quantizing it again adds to its error" in report.notes[0]
    assert report.verification is not None
    assert report.verification.worst is not None
    assert report.verification.worst.relative_error < 0.2


# What is told: record, card, verification, forecast.


def test_the_card_tells_bits_recipe_and_command(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", mixed="4_6", group_size=32, embedding_bits=8, quality="rtn")
    card = (tmp_path / "out" / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head == {"library_name": "mlx", "pipeline_tag": "text-generation", "tags": ["llama3-mlx", "mlx"]}
    assert "# Hugging Face folder source for MLX, mixed 4 bits" in card
    assert "llama3-mlx convert SOURCE DEST --group-size 32 --mixed 4_6 --embedding-bits 8 --quality rtn" in card
    shares = re.findall(r"\| affine, (\d) bits, groups of 32 \| ([\d.]+)% of the weights \|", card)
    assert {bits for bits, _ in shares} == {"4", "6", "8"}
    assert sum(float(share) for _, share in shares) == pytest.approx(100, abs=1)
    assert "quantized by | round-to-nearest" in card
    assert str(tmp_path) not in card


def test_what_was_measured_stands_in_record_and_card(source: Path, tmp_path: Path) -> None:
    from llama3_mlx.convert.api import given_settings
    from llama3_mlx.convert.opening import open_source
    from llama3_mlx.convert.pipeline import run
    from llama3_mlx.convert.target_choice import make_target

    seen = []

    def measure(folder: Path) -> dict[str, Any]:
        seen.append(load_model(folder)(mx.array([[1]])).shape)
        return {"kl": 0.0123456, "tokens": 2040}

    options, opened = ConversionOptions(bits=4), open_source(source)
    target = make_target(opened, options, "mlx", tmp_path / "out")
    run(opened, target, tmp_path / "out", settings=given_settings(options), measure=measure)
    opened.close()
    assert seen == [(1, 1, 512)]
    assert (
        "| KL divergence, nats a token | 0.012346 |\n| predicted tokens, of text"
        in (tmp_path / "out" / "README.md").read_text()
    )
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["quality"] == {
        "kl": 0.0123456,
        "tokens": 2040,
    }


def test_verification_gives_each_modules_error(source: Path, tmp_path: Path) -> None:
    report = convert(source, tmp_path / "out", bits=4, quality="rtn", verify=True)
    found = report.verification
    assert found is not None
    weights = load_file(source / "model.safetensors")
    packed: Any = mx.load(str(tmp_path / "out" / "model.safetensors"))
    errors = {module.tensor: module for module in found.modules}
    assert errors.keys() == weights.keys()
    path = "model.layers.2.self_attn.k_proj"
    words, scales, biases = (packed[f"{path}.{part}"] for part in ("weight", "scales", "biases"))
    back = mx.dequantize(words, scales.astype(mx.float32), biases.astype(mx.float32), group_size=64, bits=4)
    off = np.array(back) - weights[f"{path}.weight"].astype(np.float32)
    expected = np.linalg.norm(off) / np.linalg.norm(weights[f"{path}.weight"].astype(np.float32))
    assert errors[f"{path}.weight"].relative_error == pytest.approx(expected, rel=1e-4)
    assert errors[f"{path}.weight"].largest_error == pytest.approx(np.abs(off).max(), rel=1e-4)
    assert errors["model.norm.weight"].relative_error == 0
    assert verify(tmp_path / "out", source).worst == found.worst


def test_one_flipped_bit_is_found_and_named(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", bits=4)
    assert verify(tmp_path / "out").tensors == len(load_file(tmp_path / "out" / "model.safetensors"))
    path = tmp_path / "out" / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.6.mlp.up_proj.weight"][5, 1] ^= 1 << 20
    save_file(weights, path, metadata={"format": "mlx"})
    with pytest.raises(CheckpointError, match=r"not what was written: model.layers.6.mlp.up_proj.weight; convert"):
        verify(tmp_path / "out")


def test_a_module_that_is_nothing_like_its_source_fails_the_conversion(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama3_mlx.convert.quantization.quantizer import RoundToNearest

    honest = RoundToNearest.__call__

    def wrong(self: Any, tensor: str, start: int, rows: mx.array, scheme: Any) -> Any:
        return honest(self, tensor, start, -rows if tensor.endswith("3.mlp.up_proj") else rows, scheme)

    monkeypatch.setattr(RoundToNearest, "__call__", wrong)
    with pytest.raises(CheckpointError, match=r"too far from the source .*: model.layers.3.mlp.up_proj.weight \("):
        convert(source, tmp_path / "out", bits=4, verify=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("settings", [{"bits": 4}, {"mixed": "3_6"}, {"to": "hf"}, {"mode": "mxfp4"}])
def test_a_dry_run_tells_the_sizes_and_leaves_nothing(source: Path, tmp_path: Path, settings: Any) -> None:
    expected = dry_run(source, tmp_path / "out", **settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
    report = convert(source, tmp_path / "out", **settings)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors")}
    assert expected.files == sizes
    assert expected.total_bytes == report.total_bytes
    assert expected.bits_per_weight == report.bits_per_weight
    assert expected.seconds > 0
    assert expected.peak_memory_bytes > 10_000_000


def test_a_dry_run_reckons_the_time_of_all_layers_from_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A clock on which every value takes a hundredth of a second, and the first block five seconds more.
    passed = [0.0]
    convert_block = FolderTarget.convert
    weights = load_file(save_tiny(tmp_path / "source", **SMALL) / "model.safetensors")
    values = sum(array.size for array in weights.values())

    def timed(self: Any, ref: Any, start: int, rows: mx.array) -> Any:
        passed[0] += rows.size / 100 + (0 if passed[0] else 5)
        return convert_block(self, ref, start, rows)

    monkeypatch.setattr(FolderTarget, "convert", timed)
    monkeypatch.setattr("time.perf_counter", lambda: passed[0])
    monkeypatch.setattr("llama3_mlx.convert.pipeline.BLOCK_VALUES", 640)
    for sampled in (1, 150_000, 10**9):
        passed[0] = 0.0
        monkeypatch.setattr(import_module("llama3_mlx.convert.forecasting"), "_SAMPLE_VALUES", sampled)
        seconds = dry_run(tmp_path / "source", tmp_path / "out", bits=4).seconds
        assert seconds == pytest.approx(5 + values / 100)
        assert passed[0] < seconds - 1


def test_a_dry_run_says_that_the_disk_is_too_small(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=40_000_000))
    (warning,) = dry_run(source, tmp_path / "out", bits=4).notes
    # Tokenizer and config files may take 50 MB.
    assert re.search(r"out needs 50.26 MB and the disk has 40.00 MB free: make room", warning)


def test_a_source_without_a_tokenizer_is_noted(source: Path, tmp_path: Path) -> None:
    (note,) = convert(source, tmp_path / "out", bits=4).notes
    assert note.startswith("the source has no tokenizer")
    save_words_tokenizer(source, [])
    assert convert(source, tmp_path / "other", bits=4).notes == ()


def test_a_dry_run_of_a_70b_needs_its_config_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A sample of a 70B takes its time.
    monkeypatch.setattr("llama3_mlx.convert.forecasting._conversion_seconds", lambda *_: 1.0)
    shape = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
    source = save_tiny(
        tmp_path / "70b", weights={}, num_key_value_heads=8, tie_word_embeddings=False, **{**shape, "head_dim": 128}
    )
    (source / "model.safetensors").unlink()
    assert main(["convert", str(source), str(tmp_path / "out"), "--bits", "4", "--dry-run", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    # From Meta's model card and 4.5 bits a weight.
    assert values["parameters"] == 70_553_706_496
    assert values["total_bytes"] == pytest.approx(39.69e9, rel=1e-3)
    assert len(values["files"]) == 8
    with pytest.raises(Llama3MLXError, match=r"no model.safetensors"):
        convert(source, tmp_path / "out", bits=4)


def test_parts_of_the_work_are_told(source: Path, tmp_path: Path) -> None:
    told: list[str] = []

    class Telling:
        def stage(self, name: str) -> None:
            told.append(name)

        def start(self, total_tensors: int, total_bytes: int) -> None:
            told.append("start")

        def advance(self, tensor: str, n_bytes: int, *, finished: bool) -> None:
            return

    dry_run(source, tmp_path / "out", bits=4, progress=Telling())
    convert(source, tmp_path / "out", bits=4, verify=True, progress=Telling())
    assert told == ["trying a sample", "start", "verifying"]


def test_ctrl_c_says_how_to_go_on(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rounding, command = RoundToNearest.__call__, ["convert", str(source), str(tmp_path / "out"), "--bits", "4"]

    def interrupted(self: Any, *arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return rounding(self, *arguments)

    monkeypatch.setattr(RoundToNearest, "__call__", interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert main(command) == 130
    assert signal.getsignal(signal.SIGINT) == before
    assert capsys.readouterr().err.strip().splitlines() == [
        "stopping; Ctrl-C again stops at once",
        "stopped; the same command resumes from there",
    ]
    monkeypatch.undo()
    assert main(command) == 0


def test_the_command_has_all_settings_and_says_what_it_did(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dest = tmp_path / "out"
    assert main(["convert", str(source), str(dest), "-b", "4", "-g", "32", "--embedding-bits", "6", "--verify"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{dest}: ")
    assert "\nverified " in said.out
    assert stored_bits(dest)["model.embed_tokens"] == 6
    assert main(["convert", str(dest), str(tmp_path / "whole"), "--dequantize"]) == 0
    assert "note: the source is quantized (affine 4 bits, affine 6 bits)" in capsys.readouterr().err
    assert main(["convert", str(source), str(tmp_path / "o.gguf"), "--bits", "4"]) == 2
    assert capsys.readouterr().err == (
        "error: bits are for MLX folders; gguf is not quantized by them: choose one of its own types with gguf_type\n"
    )
