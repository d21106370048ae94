"""The README is true: its commands and its Python run. What else a page must hold, test_docs.py asks of it as well."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_scripts_it_names_are_there() -> None:
    for script in ("scripts/demo", "scripts/test"):
        assert script in TEXT
        assert (ROOT / script).stat().st_mode & 0o111


def test_what_its_tree_shows_is_there() -> None:
    """A line names folders, what it says of them names modules in the first one."""
    tree = TEXT.partition("## Where is what")[2].split("```")[1].strip("\n")
    parent, missing = ROOT, []
    for line in tree.splitlines():
        if not line.startswith("  "):
            parent = ROOT
        names = re.findall(r"[\w/]+(?:/|\.py)(?=\s|$)", re.split(r"(?<=[/y]) {3,}", line, maxsplit=1)[0])
        missing += [name for name in names if not (parent / name).exists()]
        modules = re.findall(r"[\w/]+\.py", line)
        missing += [name for name in modules if not list((parent / names[0]).parent.rglob(name))]
        if not line.startswith("  "):
            parent = ROOT / names[0]
    assert missing == []


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("llama3-mlx ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_its_commands_and_its_python_run(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tiny model in the place of Llama 3.2 3B, which later commands find by its name."""
    monkeypatch.setenv("LLAMA3_MLX_HOME", str(tmp_path / "home"))
    dialog = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}'
    (tmp_path / "dialogs.jsonl").write_text(f"{dialog}\n" * 4)
    short = ["--max-tokens", "3"]
    limits = {"generate": short, "chat": short, "train": ["--steps", "1", "--samples", "0"]}
    # A server runs until it is stopped; its own tests start it.
    for arguments in [arguments for arguments in commands() if arguments[0] != "serve"]:
        words = [str(tiny_folder) if word == "meta-llama/Llama-3.2-3B-Instruct" else word for word in arguments]
        run(["-m", "llama3_mlx", *words, *limits.get(arguments[0], [])], tmp_path)
    for block in blocks("python"):
        assert run(["-c", re.sub(r"max_tokens=\d+", "max_tokens=3", block)], tmp_path)


def run(arguments: list[str], folder: Path) -> str:
    command = [sys.executable, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, input="Hi\n", capture_output=True, text=True, check=False, cwd=folder, env=environment
    )
    assert result.returncode == 0, (command, result.stderr)
    return result.stdout
