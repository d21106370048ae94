"""The README is true: its commands and its Python run. What else a page must hold, test_docs.py asks of it as well."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_scripts_it_names_are_there() -> None:
    for script in ("scripts/demo", "scripts/test"):
        assert script in TEXT
        assert (ROOT / script).stat().st_mode & 0o111


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("llama3-mlx ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_its_commands_and_its_python_run(tiny_folder: Path, tmp_path: Path) -> None:
    """With a tiny model in the place of Llama 3.2 3B."""
    names = ("meta-llama/Llama-3.2-3B-Instruct", str(tiny_folder)), ("llama-3.2-3b-4bit", str(tmp_path / "model"))

    def local(text: str) -> str:
        for name, place in names:
            text = text.replace(name, place)
        return text

    dialog = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}'
    (tmp_path / "dialogs.jsonl").write_text(f"{dialog}\n" * 4)
    short = ["--max-tokens", "3"]
    limits = {"generate": short, "chat": short, "train": ["--steps", "1", "--samples", "0"]}
    # A server runs until it is stopped; its own tests start it.
    for arguments in [arguments for arguments in commands() if arguments[0] != "serve"]:
        limited = limits.get(arguments[0], [])
        command = [sys.executable, "-m", "llama3_mlx", *map(local, arguments), *limited]
        result = subprocess.run(command, input="Hi\n", capture_output=True, text=True, check=False, cwd=tmp_path)
        assert result.returncode == 0, (command, result.stderr)
    for block in blocks("python"):
        code = local(block).replace("max_tokens=200", "max_tokens=3").replace("max_tokens=50", "max_tokens=3")
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert result.stdout
