"""The guides are true: their links lead somewhere, their commands parse and the engine's Python runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llama3_mlx import cli

DOCS = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def commands(path: Path) -> list[list[str]]:
    joined = [block.replace("\\\n", " ") for block in blocks(path, "sh")]
    lines = [line.strip() for block in joined for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("llama3-mlx ")]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_to_files_and_commands_parse(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if "://" not in target and not (path.parent / target).exists()] == []
    for arguments in commands(path):
        cli._parse([word for word in arguments if word not in ("|", "&")])


def test_the_engines_python_runs(tiny_folder: Path) -> None:
    """With a tiny model in the place of Llama 3.2 3B."""
    guide = next(path for path in DOCS if path.name == "engine.md")
    for block in blocks(guide, "python"):
        code = re.sub(r"max_tokens=\d+", "max_tokens=2", block.replace("llama-3.2-3b-4bit", str(tiny_folder)))
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
