"""Downloads from a local fake Hub through HF_ENDPOINT, in processes of their own as the variable is read at import."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import HfHubHTTPError
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from llama3_mlx import CheckpointError
from llama3_mlx.cli import model_choice
from llama3_mlx.library.resolver import resolve_model
from llama3_mlx.speculation.eagle_config import HeadConfig

from ..support.eagle import head_values, random_head, save_flat_head
from ..support.fake_hub import FakeHub, running_hub
from ..support.tiny_model import save_tiny

SMALL: dict[str, Any] = {"vocab_size": 512, "eos_token_id": [1], "bos_token_id": 0}


@pytest.fixture
def hub() -> Iterator[tuple[FakeHub, str]]:
    with running_hub() as running:
        yield running


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = save_tiny(tmp_path / "repository", **SMALL)
    letters = {letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Tokenizer(BPE(letters, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "LICENSE.txt").write_text("license")
    (folder / "original").mkdir()
    (folder / "original" / "consolidated.00.pth").write_text("large")
    (folder / "pytorch_model.bin").write_text("large")
    return folder


def hub_environment(tmp_path: Path, address: str, *, offline: bool = False) -> dict[str, str]:
    return {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DISABLE_XET": "1",
    }


def run_command(
    tmp_path: Path, address: str, *arguments: str, offline: bool = False, blocked: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command against the fake Hub; `blocked` is a module that can't be imported in it."""
    command = [sys.executable, "-m", "llama3_mlx", *arguments]
    if blocked:
        code = f"import sys; sys.modules[{blocked!r}] = None; from llama3_mlx.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", code, *arguments]
    environment = hub_environment(tmp_path, address, offline=offline)
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)


def test_a_hub_id_is_downloaded_with_only_the_files_needed(
    hub: tuple[FakeHub, str], repository: Path, tmp_path: Path
) -> None:
    fake, address = hub
    fake.repositories["owner/name"] = repository
    result = run_command(tmp_path, address, "convert", "owner/name", str(tmp_path / "out"), "--bits", "4")
    assert result.returncode == 0, result.stderr
    assert {name for name, _ in fake.fetched} == {"config.json", "model.safetensors", "tokenizer.json", "LICENSE.txt"}
    assert (tmp_path / "out" / "LICENSE.txt").read_text() == "license"
    fake.fetched.clear()
    result = run_command(tmp_path, address, "info", "owner/name@main", "--json", offline=True)
    assert json.loads(result.stdout)["architecture"]["layers"] == 2, result.stderr
    assert fake.fetched == [], "the cache serves what it has"


def test_a_draft_head_is_downloaded_with_its_pytorch_weights(hub: tuple[FakeHub, str], tmp_path: Path) -> None:
    fake, address = hub
    values = head_values()
    fake.repositories["owner/head"] = save_flat_head(
        tmp_path / "head", random_head(HeadConfig.from_dict(values)), values
    )
    result = run_command(tmp_path, address, "convert", "owner/head", str(tmp_path / "out"), "--bits", "8")
    assert result.returncode == 0, result.stderr
    assert {name for name, _ in fake.fetched} == {"config.json", "pytorch_model.bin"}
    assert (tmp_path / "out" / "model.safetensors").is_file()


LOADING = """
import json, sys
from llama3_mlx import Llama
events = []
Llama.load("owner/tiny", **({"progress": events.append} if sys.argv[1:] else {})).close()
print(json.dumps([[e.stage, e.name, e.done, e.total] for e in events]))
"""


def test_loading_tells_a_callback_how_far_it_is(hub: tuple[FakeHub, str], tiny_folder: Path, tmp_path: Path) -> None:
    fake, address = hub
    fake.repositories["owner/tiny"] = tiny_folder
    command = [sys.executable, "-c", LOADING, "told"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=hub_environment(tmp_path, address), check=False, timeout=120
    )
    events = json.loads(done.stdout)
    weights = (tiny_folder / "model.safetensors").stat().st_size
    downloading = [
        (done, total) for stage, name, done, total in events if (stage, name) == ("downloading", "owner/tiny")
    ]
    files = sum((tiny_folder / name).stat().st_size for name in {name for name, _ in fake.fetched})
    assert downloading[-1] == (files, files)
    assert all(done <= total for done, total in downloading)
    assert events[-2:] == [["loading", "owner/tiny", done, weights] for done in (0, weights)]
    assert done.stderr == ""


def test_loading_shows_a_download_on_a_terminal_and_nothing_elsewhere(
    hub: tuple[FakeHub, str], tiny_folder: Path, tmp_path: Path
) -> None:
    fake, address = hub
    fake.repositories["owner/tiny"] = tiny_folder
    shown = {}
    for kind in ("file", "terminal"):
        environment = {**hub_environment(tmp_path / kind, address), "TERM": "xterm", "COLUMNS": "80"}
        ours, theirs = pty.openpty()
        stderr = theirs if kind == "terminal" else subprocess.PIPE
        command = [sys.executable, "-c", LOADING]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, env=environment, check=True, timeout=120)
        shown[kind] = os.read(ours, 1 << 20).decode() if kind == "terminal" else done.stderr.decode()
        for descriptor in (ours, theirs):
            os.close(descriptor)
    assert "downloading owner/tiny" in shown["terminal"]
    assert shown["file"] == ""


def test_a_broken_download_goes_on_where_it_stopped(hub: tuple[FakeHub, str], repository: Path, tmp_path: Path) -> None:
    fake, address = hub
    # huggingface_hub keeps what it has in steps of 10 MB.
    fake.repositories["owner/name"] = save_tiny(repository, **{**SMALL, "vocab_size": 200_000})
    fake.break_once["model.safetensors"] = 15_000_000
    results = [run_command(tmp_path, address, "convert", "owner/name", str(tmp_path / "out")) for _ in range(2)]
    assert any(result.returncode == 0 for result in results), results[-1].stderr
    starts = [start for name, start in fake.fetched if name == "model.safetensors"]
    assert starts[0] == 0
    assert starts[-1] > 0, "the second request asks for the rest only"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            "owner/absent",
            "there is no folder owner/absent here and no repository of that name on the Hub, or it is private",
        ),
        ("owner/gated", "owner/gated is gated: accept its license at https://huggingface.co/owner/gated"),
        ("owner/name@nowhere", "owner/name has no revision 'nowhere'"),
        ("owner/empty", "has no config.json"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    hub: tuple[FakeHub, str], repository: Path, tmp_path: Path, asked: str, words: str
) -> None:
    fake, address = hub
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "LICENSE").write_text("x")
    fake.repositories |= {"owner/name": repository, "owner/gated": repository, "owner/empty": tmp_path / "empty"}
    fake.gated.add("owner/gated")
    result = run_command(tmp_path, address, "convert", asked, str(tmp_path / "out"))
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stderr.strip().count("\n") == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_unreachable_hub_is_one_line(tmp_path: Path) -> None:
    result = run_command(tmp_path, "http://127.0.0.1:9", "info", "owner/name")
    assert result.returncode == 2
    assert "the download of owner/name failed: the Hub can't be reached" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("status", "words"),
    [(500, "the Hub failed at the download of owner/name (HTTP 500)"), (429, "too many requests (HTTP 429); wait")],
)
def test_a_failing_hub_is_told_as_what_it_is(
    hub: tuple[FakeHub, str], repository: Path, tmp_path: Path, status: int, words: str
) -> None:
    """Status codes: RFC 9110 section 15.6 and RFC 6585 section 4."""
    fake, address = hub
    fake.repositories["owner/name"] = repository
    fake.failing["owner/name"] = status
    result = run_command(tmp_path, address, "pull", "owner/name")
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("library", ["httpx", "requests"])
def test_pull_fails_in_one_line_without_an_http_library_that_the_hub_package_does_not_use(
    hub: tuple[FakeHub, str], repository: Path, tmp_path: Path, library: str
) -> None:
    fake, address = hub
    fake.repositories["owner/gated"] = repository
    fake.gated.add("owner/gated")
    used = {kind.__module__.partition(".")[0] for kind in HfHubHTTPError.__mro__}
    if library in used:
        pytest.skip(f"this version of huggingface_hub uses {library}")
    for asked, words in (("owner/absent", "no repository of that name"), ("owner/gated", "owner/gated is gated")):
        result = run_command(tmp_path, address, "pull", asked, blocked=library)
        assert (result.returncode, words in result.stderr) == (2, True), result.stderr
        assert result.stderr.count("\n") == 1
    result = run_command(tmp_path, "http://127.0.0.1:9", "pull", "owner/name", blocked=library)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr


# huggingface_hub writes in steps of 10 MB.
@pytest.mark.parametrize(("sent", "written"), [(15_000_000, 10_000_000), (5_000_000, 0)])
def test_ctrl_c_ends_a_download_at_once_and_leaves_no_partial_file(
    hub: tuple[FakeHub, str], repository: Path, tmp_path: Path, sent: int, written: int
) -> None:
    fake, address = hub
    fake.repositories["owner/name"] = save_tiny(repository, **{**SMALL, "vocab_size": 200_000})
    fake.stalled["model.safetensors"] = sent
    environment = hub_environment(tmp_path, address)
    command = [sys.executable, "-m", "llama3_mlx", "pull", "owner/name"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        deadline = time.monotonic() + 60
        while max((path.stat().st_size for path in (tmp_path / "home").rglob("*.incomplete")), default=-1) < written:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # The other files, which are small, arrive meanwhile.
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said.decode().splitlines()[-1] == "stopped; finished files are kept, and the same command goes on from them"
    assert b"Traceback" not in said
    assert not list((tmp_path / "home").rglob("*.incomplete"))
    fake.stalled.clear()
    fake.fetched.clear()
    result = run_command(tmp_path, address, "pull", "owner/name")
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip(), "model.safetensors").stat().st_size > 15_000_000
    assert "config.json" not in dict(fake.fetched), "finished files are kept"
    assert "downloading owner/name: " in result.stderr


STOPPED = """
from llama3_mlx import Llama
try:
    Llama.load("owner/name")
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def test_a_script_that_ctrl_c_stops_in_a_download_ends_at_once(
    hub: tuple[FakeHub, str], repository: Path, tmp_path: Path
) -> None:
    """Python joins the threads of concurrent.futures' pools at its end, and the Hub library waits minutes in them."""
    fake, address = hub
    fake.repositories["owner/name"] = repository
    fake.stalled["model.safetensors"] = 0
    command = [sys.executable, "-c", STOPPED]
    environment = hub_environment(tmp_path, address)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        deadline = time.monotonic() + 60
        while "model.safetensors" not in dict(fake.fetched):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        said, errors = process.communicate(timeout=20)
    assert (process.returncode, said, errors) == (0, b"stopped\n", b"")
    assert time.monotonic() - began < 5


def test_without_a_model_the_ways_to_one_are_told_a_line_each(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA3_MLX_HOME", str(tmp_path / "nothing"))
    monkeypatch.delenv("LLAMA3_MLX_MODEL", raising=False)
    result = run_command(tmp_path, "http://127.0.0.1:9", "generate", "-p", "x", offline=True)
    assert result.returncode == 2
    error, *ways = result.stderr.splitlines()[1:]
    assert error.startswith("error: no model was named, and the default is unavailable: ")
    assert [way[:10] for way in ways] == ["- name a f", "- get one:", "- run scri"]
    monkeypatch.setattr(model_choice, "_DEMO", tmp_path / "scripts" / "demo")
    assert not any("scripts/demo" in way for way in model_choice._ways())
    (tmp_path / "nothing" / "models").mkdir(parents=True)
    (tmp_path / "nothing" / "models" / "mine").symlink_to(tiny_folder)
    assert next(iter(model_choice._ways())) == "- name one that is here with -m MODEL or $LLAMA3_MLX_MODEL: mine"


@pytest.mark.parametrize("name", ["/no/such/folder", "./x", "a/b/c", "owner", "../owner/name", "owner/na me", ""])
def test_what_is_neither_folder_nor_id_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="owner/name"):
        resolve_model(name or "x y")


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("x")
    with pytest.raises(CheckpointError, match="convert it first"):
        resolve_model(tmp_path / "model.gguf")
