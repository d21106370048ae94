"""Nothing that a user does needs transformers or mlx-lm: the commands run where neither can be imported."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

BLOCKED = ("transformers", "mlx_lm", "torch", "sentencepiece")
CODE = f"""
import sys
for name in {BLOCKED!r}:
    sys.modules[name] = None
from llama3_mlx.cli import main
sys.exit(main())
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", CODE, *arguments]


def run(home: Path, *arguments: str, stdin: str = "") -> str:
    environment = {**os.environ, "LLAMA3_MLX_HOME": str(home)}
    result = subprocess.run(
        command(*arguments), input=stdin, capture_output=True, text=True, env=environment, check=False, timeout=200
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout


def test_every_module_but_the_peer_s_program_is_imported_without_them() -> None:
    code = f"""
import importlib, pkgutil, sys
for name in {BLOCKED!r}:
    sys.modules[name] = None
import llama3_mlx
for module in pkgutil.walk_packages(llama3_mlx.__path__, "llama3_mlx."):
    if module.name not in ("llama3_mlx.__main__", "llama3_mlx.llm_plugin"):
        importlib.import_module(module.name)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_converting_generating_and_chatting(tiny_folder: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    run(tmp_path, "convert", str(tiny_folder), str(made), "--bits", "4", "--group-size", "32", "--verify")
    run(tmp_path, "convert", str(tiny_folder), str(tmp_path / "made.gguf"), "--gguf-type", "f16")
    assert run(tmp_path, "generate", "-m", str(made), "Hi", "--max-tokens", "3").strip()
    assert run(tmp_path, "chat", "-m", str(made), "--max-tokens", "3", stdin="Hello\n/stats\n").strip()
    assert "parameters" in run(tmp_path, "info", str(made))


@pytest.mark.parametrize("method", ["train", "dpo"])
def test_training_and_fusing(tiny_folder: Path, tmp_path: Path, method: str) -> None:
    pair = {"prompt": "Say it.", "chosen": "please", "rejected": "NOW!"}
    example = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
    data, out = tmp_path / "data.jsonl", tmp_path / "adapter"
    data.write_text(json.dumps(pair if method == "dpo" else example) + "\n")
    settings = ["--steps", "1", "--row-length", "64", "--batch-size", "1", "--samples", "0", "--quiet"]
    run(tmp_path, method, "-m", str(tiny_folder), "-d", str(data), "-o", str(out), *settings)
    run(tmp_path, "fuse", "-m", str(tiny_folder), "-a", str(out), "-o", str(tmp_path / "fused"))
    assert (tmp_path / "fused" / "model.safetensors").exists()


def test_serving(tiny_folder: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "LLAMA3_MLX_HOME": str(tmp_path)}
    arguments = command("serve", "-m", str(tiny_folder), "--port", "0")
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert " on http://" in line, line + process.stderr.read()
        url = line.split(" on ")[1].split()[0]
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
        reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert reply.status_code == 200
    assert reply.json()["usage"]["completion_tokens"] == 3
