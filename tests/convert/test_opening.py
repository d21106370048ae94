"""What a source is, by its first bytes and its files; where a result goes, behind links and on mount points."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llama3_mlx import CheckpointError, ConversionError
from llama3_mlx.cli import main
from llama3_mlx.convert import convert, dry_run

from ..support.tiny_model import CONFIG, save_tiny, tiny_weights
from .test_gguf import write_gguf

SMALL: dict[str, Any] = {"vocab_size": 512, "eos_token_id": [1], "bos_token_id": 0}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "source", **SMALL)


@pytest.mark.parametrize("name", ["model.GGUF", "sha256-0a1b2c", "model.bin"])
def test_a_gguf_file_is_known_by_its_first_bytes(tmp_path: Path, name: str) -> None:
    expected = write_gguf(tmp_path / "model.gguf", "F16")
    (tmp_path / "model.gguf").rename(tmp_path / name)
    convert(tmp_path / name, tmp_path / "out")
    ours = load_file(tmp_path / "out" / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    np.testing.assert_array_equal(ours[name], expected[name].astype(np.float16))


def test_a_gguf_file_beside_a_config_is_the_source_unless_there_are_safetensors(source: Path, tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    write_gguf(tmp_path / "repo" / "model.Q8_0.GGUF", "Q8_0")
    shutil.copy(source / "config.json", tmp_path / "repo" / "config.json")
    assert convert(tmp_path / "repo", tmp_path / "out").source == "GGUF file model.Q8_0.GGUF"
    assert dry_run(tmp_path / "repo", tmp_path / "other").parameters == convert_parameters(tmp_path / "out")
    shutil.copy(source / "model.safetensors", tmp_path / "repo" / "model.safetensors")
    assert convert(tmp_path / "repo", tmp_path / "second").source == "Hugging Face folder repo"


def convert_parameters(folder: Path) -> int:
    return sum(array.size for array in load_file(folder / "model.safetensors").values())


def test_several_gguf_files_want_to_be_chosen_from(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "two models"
    folder.mkdir()
    for name in ("a.gguf", "b.gguf"):
        (folder / name).write_bytes(b"GGUF")
    with pytest.raises(
        CheckpointError, match=r"has 2 GGUF files \(a.gguf, b.gguf\): name one of them, .* '.*/a.gguf' DEST"
    ):
        convert(folder, tmp_path / "out")
    with pytest.raises(CheckpointError, match="is a part of a model: name the folder"):
        convert(source / "model.safetensors", tmp_path / "out")


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_a_gguf_file_keeps_the_dtype_of_its_weights(tmp_path: Path, kind: str) -> None:
    write_gguf(tmp_path / "model.gguf", kind)
    convert(tmp_path / "model.gguf", tmp_path / "out")
    expected = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "Q8_0": "float16"}[kind]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == expected
    header = (tmp_path / "out" / "model.safetensors").read_bytes()[8:4000]
    assert {"F32": b'"F32"', "F16": b'"F16"', "BF16": b'"BF16"', "Q8_0": b'"F16"'}[kind] in header


@pytest.mark.parametrize("named", [None, "auto", "bf16", ["float32"], "float32"])
def test_the_dtype_of_the_weights_decides_whatever_the_config_says(
    tmp_path: Path, named: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save_tiny(tmp_path / "source", torch_dtype="bfloat16", **SMALL)
    values = json.loads((source / "config.json").read_text())
    del values["torch_dtype"]
    (source / "config.json").write_text(json.dumps(values if named is None else {**values, "dtype": named}))
    convert(source, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert main(["info", str(source), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stored_dtype"] == "bfloat16"


def test_a_quantized_gguf_without_bits_is_noted_with_the_bits_that_keep_it_small(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", "Q4_0")
    report = convert(tmp_path / "model.gguf", tmp_path / "out")
    (note,) = [note for note in report.notes if "--bits" in note]
    assert (
        note
        == "the source has 4.6 bits per weight and the result 16.0: --bits 4 --group-size 32 keeps it about as small"
    )
    assert not [
        note for note in convert(tmp_path / "model.gguf", tmp_path / "o", dequantize=True).notes if "--bits" in note
    ]
    write_gguf(tmp_path / "half.gguf", "F16")
    assert not [note for note in convert(tmp_path / "half.gguf", tmp_path / "half").notes if "--bits" in note]


def test_a_result_takes_the_place_of_what_a_link_points_to(source: Path, tmp_path: Path) -> None:
    for name in ("dangling", "link"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
        report = convert(source, tmp_path / name, bits=4)
        assert report.path == tmp_path / name
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "disk" / name / "config.json").exists()
    with pytest.raises(ConversionError, match="exists already"):
        convert(source, tmp_path / "link", bits=8)
    convert(source, tmp_path / "link", bits=8, force=True)
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "disk" / "link" / "config.json").read_text())["quantization"]["bits"] == 8
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["dangling", "link"]


def test_a_link_to_itself_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ConversionError, match="is a link that leads back to itself"):
        convert(source, tmp_path / "loop", bits=4)


def test_what_can_not_be_replaced_is_found_out_before_the_work(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount point, which the system doesn't rename, and a folder in one that can't be written to."""
    convert(source, tmp_path / "taken", bits=4)
    monkeypatch.setattr("llama3_mlx.convert.api.run", lambda *_, **__: pytest.fail("the work began"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_mount", lambda self: self.name == "taken")
        with pytest.raises(ConversionError, match=r"taken is a mount point, .*: name a new folder inside it"):
            convert(source, tmp_path / "taken", bits=8, force=True)
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(ConversionError, match=r"taken can't be replaced: .* can't be written to"):
        convert(source, tmp_path / "taken", bits=8, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "taken"]


def test_a_result_that_can_not_take_its_place_is_kept_and_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(source, tmp_path / "taken", bits=4)
    rename = Path.rename

    def busy(self: Path, target: Any) -> Path:
        if self.name == "taken":
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(
        ConversionError, match=r"taken can't be replaced: .*; the finished result is in .*model: move it"
    ):
        convert(source, tmp_path / "taken", bits=8, force=True)
    assert json.loads((tmp_path / "taken" / "config.json").read_text())["quantization"]["bits"] == 4
    monkeypatch.undo()
    report = convert(source, tmp_path / "taken", bits=8, force=True)
    assert report.resumed_modules > 0
    assert json.loads((tmp_path / "taken" / "config.json").read_text())["quantization"]["bits"] == 8


def test_an_unwritable_report_is_found_out_before_the_work(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("llama3_mlx.convert.api.run", lambda *_, **__: pytest.fail("the work began"))
    with pytest.raises(ConversionError, match=r"the report can't be written to .*file/report: Not a directory"):
        convert(source, tmp_path / "out", bits=4, report_to=tmp_path / "file" / "report")


def test_a_dry_run_where_nothing_can_be_written_notes_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    temporary = tempfile.TemporaryFile

    def refused(*args: Any, dir: Any = None, **kwargs: Any) -> Any:
        if dir == tmp_path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return temporary(*args, dir=dir, **kwargs)

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    notes = dry_run(source, tmp_path / "out", bits=4).notes
    assert f"{tmp_path} can't be written to: Permission denied; choose another place" in notes


def test_names_that_are_not_utf8_are_converted_and_shown(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/na\xffme")
    source.rename(odd)
    assert main(["convert", odd, f"{odd} out", "--bits", "4"]) == 0
    said = capsys.readouterr()
    assert "na\ufffdme out: " in said.out
    record = json.loads((Path(f"{odd} out") / "conversion.json").read_text(encoding="utf-8"))
    assert record["source"] == "Hugging Face folder na\ufffdme"


def test_a_relative_source_is_named_after_its_folder(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "README.md").write_text("---\nbase_model: meta-llama/Tiny\n---\n# A fine-tune\n")
    monkeypatch.chdir(source)
    convert(".", tmp_path / "out", bits=4)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# Hugging Face folder source for MLX, 4 bits" in card
    # What the fine-tune was made from stays its base, but isn't what was converted.
    assert "from Hugging Face folder source;" in card
    assert "base_model: meta-llama/Tiny" in card


def test_an_existing_folder_is_verified_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: Path
) -> None:
    assert main(["convert", str(source), str(tmp_path / "out"), "--bits", "8"]) == 0
    capsys.readouterr()
    assert main(["convert", str(source), str(tmp_path / "out"), "--existing", "--verify"]) == 0
    assert capsys.readouterr().out.startswith("verified ")
    assert main(["convert", str(source), str(tmp_path / "out"), "--existing"]) == 2
    assert "--existing verifies and reports: add --verify" in capsys.readouterr().err
    assert main(["convert", str(source), str(tmp_path / "out"), "--existing", "--verify", "--bits", "4"]) == 2
    assert "--existing converts nothing: leave out --bits" in capsys.readouterr().err


def test_an_existing_folder_is_measured_from_the_command_line(small_chat: Path, tmp_path: Path) -> None:
    convert(small_chat, tmp_path / "out", bits=8, group_size=32, quality="rtn")
    command = ["convert", str(small_chat), str(tmp_path / "out"), "--existing", "--report", str(tmp_path / "report")]
    assert main(command) == 0
    modules = json.loads((tmp_path / "report" / "report.json").read_text())["modules"]
    assert len(modules) == 2 * 7 + 1, "of each layer seven, and the tied embedding"


def test_a_tilde_in_a_flag_is_the_home_folder(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rules.json").write_text(json.dumps({"rules": [{"modules": "*.mlp.*", "bits": 4}]}))
    assert main(["convert", str(source), str(tmp_path / "out"), "--rules=~/rules.json"]) == 0
    assert "0.00 GB" not in capsys.readouterr().out


SHARDS = """
import resource, sys
from llama3_mlx import Llama3MLXError
from llama3_mlx.checkpoint.loading import load_model
from llama3_mlx.convert import convert, plan, target_choice, verify

make_plan = plan.make_plan
target_choice.make_plan = lambda *args: make_plan(*args[:3], shard_bytes=1)
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64 if sys.argv[3] == "hard" else hard))
convert(sys.argv[1], sys.argv[2], bits=4, group_size=32, verify=True)
verify(sys.argv[2], sys.argv[1])
if sys.argv[3] == "soft":
    load_model(__import__("pathlib").Path(sys.argv[2]))
"""


@pytest.mark.parametrize("limit", ["hard", "soft"])
def test_more_shards_than_files_may_be_open_are_no_obstacle(tmp_path: Path, limit: str) -> None:
    """Conversion opens files as it needs them; loading raises the soft limit, which is 256 on macOS."""
    config = {**CONFIG, **SMALL, "hidden_size": 32, "intermediate_size": 32, "head_dim": 8, "num_hidden_layers": 12}
    source = save_tiny(tmp_path / "source", weights={}, **config)
    (source / "model.safetensors").unlink()
    weights = tiny_weights(config)
    files = {name: f"model-{n:05d}-of-{len(weights):05d}.safetensors" for n, name in enumerate(weights, start=1)}
    for name, file in files.items():
        save_file({name: weights[name]}, source / file)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    command = [sys.executable, "-c", SHARDS, str(source), str(tmp_path / "out"), limit]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 100
