"""Uploads to a local fake Hub, in processes of their own, as huggingface_hub reads its address at import."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..library.test_hub import run_command
from ..support.fake_hub import FakeHub, running_hub
from ..support.tiny_model import save_tiny
from .test_export import save_source

SMALL: dict[str, Any] = {"vocab_size": 512, "eos_token_id": [1], "bos_token_id": 0}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeHub, str]]:
    with running_hub() as running:
        monkeypatch.setenv("HF_TOKEN", running[0].token)
        yield running


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = save_tiny(tmp_path / "source", **SMALL)
    card = {"license": "llama3.2", "base_model": "meta-llama/Tiny", "language": ["en", "de"]}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n# Tiny\n")
    return folder


def convert_and_upload(
    tmp_path: Path, address: str, source: Path, *more: str, repo: str = "owner/new"
) -> subprocess.CompletedProcess[str]:
    dest = str(tmp_path / "out")
    return run_command(tmp_path, address, "convert", str(source), dest, "--bits", "4", "--upload", repo, *more)


def test_all_files_of_the_result_are_uploaded(hub: tuple[FakeHub, str], source: Path, tmp_path: Path) -> None:
    fake, address = hub
    result = convert_and_upload(tmp_path, address, source)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("uploaded to owner/new\n")
    assert fake.uploaded["owner/new"] == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    card = fake.uploaded["owner/new"]["README.md"].decode()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "llama3.2"
    assert head["base_model"] == "meta-llama/Tiny"
    assert head["library_name"] == "mlx"


def test_shards_of_an_earlier_upload_are_deleted(hub: tuple[FakeHub, str], source: Path, tmp_path: Path) -> None:
    fake, address = hub
    kept = {"adapters/model.safetensors": b"theirs", "notes.txt": b"theirs"}
    stale = {"model-00001-of-00002.safetensors": b"old", "model-00002-of-00002.safetensors": b"old"}
    fake.uploaded["owner/new"] = {**kept, **stale, "channel_scales.json": b"old"}
    result = convert_and_upload(tmp_path, address, source, "--quality", "rtn")
    assert result.returncode == 0, result.stderr
    ours = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert "channel_scales.json" not in ours
    assert fake.uploaded["owner/new"] == {**kept, **ours}


def test_a_gguf_file_is_uploaded_under_its_name(hub: tuple[FakeHub, str], tmp_path: Path) -> None:
    fake, address = hub
    source = save_source(tmp_path / "source")
    arguments = ("convert", str(source), str(tmp_path / "out.gguf"), "--upload", "owner/new")
    result = run_command(tmp_path, address, *arguments)
    assert result.returncode == 0, result.stderr
    assert fake.uploaded["owner/new"] == {"out.gguf": (tmp_path / "out.gguf").read_bytes()}


def test_what_is_missing_is_said_before_the_work(
    hub: tuple[FakeHub, str], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, address = hub
    result = convert_and_upload(tmp_path, address, source, repo="new")
    assert result.stderr == "error: a repository on the Hub is named owner/name, not 'new'\n"
    for token in ("hf_wrong", ""):
        monkeypatch.setenv("HF_TOKEN", token)
        result = convert_and_upload(tmp_path, address, source)
        assert result.returncode == 2
        assert result.stderr == (
            "error: the Hub doesn't let you write to owner/new: log in with 'hf auth login' or set HF_TOKEN, with a "
            "write token\n"
        )
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["source"]


def test_a_result_that_may_not_be_uploaded_is_kept(hub: tuple[FakeHub, str], source: Path, tmp_path: Path) -> None:
    fake, address = hub
    fake.locked.add("owner/new")
    result = convert_and_upload(tmp_path, address, source)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: the Hub doesn't let you write to owner/new: log in")
    assert result.stderr.endswith(
        f"the result is in {tmp_path / 'out'}, and 'hf upload owner/new {tmp_path / 'out'}' sends it\n"
    )
    assert json.loads((tmp_path / "out" / "config.json").read_text())["quantization"]["bits"] == 4


def test_a_dry_run_of_a_hub_id_fetches_its_config_alone(hub: tuple[FakeHub, str], source: Path, tmp_path: Path) -> None:
    fake, address = hub
    fake.repositories["owner/name"] = source
    arguments = ("convert", "owner/name", str(tmp_path / "out"), "--bits", "4", "--dry-run", "--json")
    result = run_command(tmp_path, address, *arguments)
    assert result.returncode == 0, result.stderr
    assert {name for name, _ in fake.fetched} == {"config.json"}
    assert not (tmp_path / "out").exists()
    expected = json.loads(result.stdout)["files"]
    real = run_command(tmp_path, address, "convert", "owner/name", str(tmp_path / "out"), "--bits", "4")
    assert real.returncode == 0, real.stderr
    assert expected == {"model.safetensors": (tmp_path / "out" / "model.safetensors").stat().st_size}


def test_a_taken_destination_is_said_before_the_download(
    hub: tuple[FakeHub, str], source: Path, tmp_path: Path
) -> None:
    fake, address = hub
    fake.repositories["owner/name"] = source
    (tmp_path / "out").mkdir()
    result = run_command(tmp_path, address, "convert", "owner/name", str(tmp_path / "out"), "--bits", "4")
    assert result.returncode == 2
    assert result.stderr == (
        f"error: {tmp_path / 'out'} exists already: choose another destination or replace it with --force\n"
    )
    assert fake.fetched == []
