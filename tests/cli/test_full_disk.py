"""A disk or an output that takes nothing more: one line that names what couldn't be written."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llama3_mlx.convert import convert

from ..support.small_chat import save_small_chat

full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
# The tokenizer is tried in a temporary folder first, which the same limit would meet.
UNTRIED = (
    "import sys; from llama3_mlx.convert import api; api.check_tokenizer = lambda source: (); "
    "from llama3_mlx.cli import main; sys.exit(main(sys.argv[1:]))"
)


def limited(arguments: list[str], limit: int) -> subprocess.CompletedProcess[str]:
    """Run Python where no file may have more bytes: a write then fails as on a full disk."""

    def limit_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit_files)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model whose tokenizer.json is larger than its weights are per file."""
    folder = save_small_chat(tmp_path / "source")
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " " * 2_000_000)
    return folder


def test_a_copy_that_finds_no_room_is_named_and_not_what_is_copied(source: Path, tmp_path: Path) -> None:
    result = limited(["-c", UNTRIED, "convert", str(source), str(tmp_path / "out")], 1_500_000)
    partial = tmp_path / ".out.partial"
    assert result.returncode == 2
    assert result.stderr == (
        f"error: writing failed: File too large ({partial}/model/tokenizer.json); what is done is kept in {partial}, "
        "and the same command resumes from there\n"
    )
    assert not (tmp_path / "out").exists()
    result = limited(["-m", "llama3_mlx", "convert", str(source), str(tmp_path / "other")], 1_500_000)
    assert result.returncode == 2
    assert "has no room for the tokenizer's files, which are tried there (File too large)" in result.stderr
    assert str(source) not in result.stderr
    assert convert(source, tmp_path / "out").path.is_dir()


@full
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["generate", "--help"], ["models", "--json"], ["info", "MODEL"]],
    ids=" ".join,
)
def test_an_output_that_takes_nothing_is_one_line(arguments: list[str], small_chat: Path, tmp_path: Path) -> None:
    words = [str(small_chat) if word == "MODEL" else word for word in arguments]
    with Path("/dev/full").open("w") as output:
        result = subprocess.run(
            [sys.executable, "-m", "llama3_mlx", *words],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "LLAMA3_MLX_HOME": str(tmp_path), "PYTHONUNBUFFERED": ""},
        )
    assert (result.returncode, result.stderr) == (2, "error: standard output: No space left on device\n")
