"""Clients of Node.js as they are installed, unmodified, with a model that says what the test wants.

`npm install --prefix tests/server/node` installs them.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from llama3_mlx.generation.options import GenerationOptions

from ..support.scripted_llama import scripted_server

NODE = Path(__file__).parent / "node"
PACKAGES = Path(os.environ.get("LLAMA3_MLX_NODE_CLIENTS", NODE)) / "node_modules"


def program(name: str) -> str:
    """The path of an installed program; skips the test where npm has not installed it."""
    path = PACKAGES / ".bin" / name
    if shutil.which("node") is None or not path.exists():
        pytest.skip(f"{name} isn't installed: npm install --prefix tests/server/node")
    return str(path)


def run(command: list[str], folder: Path, **environment: str) -> str:
    """Run a program in a folder with a home of its own and return what it prints."""
    variables = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config"), **environment}
    variables |= {"XDG_DATA_HOME": str(folder / "data"), "XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(
        command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def call_of_shell(prompt: str, options: GenerationOptions) -> str:
    """Call the agent's shell until its output stands in the dialog, then say so."""
    tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in options.tools}
    name = next((name for name in ("exec_command", "shell", "bash") if name in tools), None)
    if name is None:
        return "A title."
    if "the-answer-is-42" in prompt:
        return "The shell said 42."
    known = {"cmd": "echo the-answer-is-$((40 + 2))", "command": "echo the-answer-is-$((40 + 2))"}
    arguments = {key: known.get(key, "said") for key in tools[name]["required"]}
    return json.dumps({"name": name, "parameters": arguments})


def test_the_ai_sdk_goes_on_from_items_that_it_refers_to(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("node") is None or not (PACKAGES / "@ai-sdk" / "openai").exists():
        pytest.skip("the AI SDK isn't installed: npm install --prefix tests/server/node")

    def script(prompt: str, options: GenerationOptions) -> str:
        if options.schema is not None and (not options.tools or "42 degrees in Rome" in prompt):
            return '{"degrees": 42}'
        if "And then?" in prompt:
            return "Then rain." if "It is hot." in prompt else "What was before?"
        return "It is hot." if "42 degrees in Rome" in prompt else '{"name": "weather", "parameters": {"city": "Rome"}}'

    with scripted_server(monkeypatch, {"tiny": tiny_folder}, script) as (server, _):
        # Packages are looked for from where the script lies.
        agent = shutil.copy(NODE / "agent.mjs", PACKAGES.parent / "agent.mjs") if PACKAGES.parent != NODE else None
        printed = run(["node", str(agent or NODE / "agent.mjs"), server.url], PACKAGES.parent)
    assert json.loads(printed.splitlines()[-1]) == {
        "first": "It is hot.",
        "second": "Then rain.",
        "streamed": "It is hot.",
        "object": {"degrees": 42},
        "both": {"degrees": 42},
    }


def test_codex_runs_a_command_and_reads_its_output(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a provider of its own, and as Ollama, whose version it checks first."""
    codex = program("codex")
    (tmp_path / "codex").mkdir()
    flags = ["--skip-git-repo-check", "-m", "tiny", "-s", "danger-full-access"]
    with scripted_server(monkeypatch, {"tiny": tiny_folder}, call_of_shell) as (server, _):
        provider = f'model_providers.local={{name="local",base_url="{server.url}/v1",wire_api="responses"}}'
        own = ["-c", 'model_provider="local"', "-c", provider]
        home = {"CODEX_HOME": str(tmp_path / "codex"), "CODEX_OSS_PORT": server.url.rpartition(":")[2]}
        said = run([codex, "exec", *flags, *own, "What is the answer?"], tmp_path, **home)
        assert "The shell said 42." in said
        as_ollama = ["--oss", "--local-provider", "ollama"]
        assert "The shell said 42." in run([codex, "exec", *flags, *as_ollama, "What is the answer?"], tmp_path, **home)


def test_opencode_runs_a_command_and_reads_its_output(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opencode = program("opencode")
    with scripted_server(monkeypatch, {"tiny": tiny_folder}, call_of_shell) as (server, _):
        options = {"baseURL": f"{server.url}/v1", "apiKey": "none"}
        models = {"tiny": {"name": "tiny", "limit": {"context": 131072, "output": 4096}}}
        provider = {"npm": "@ai-sdk/openai-compatible", "name": "Local", "options": options, "models": models}
        config = {"model": "local/tiny", "small_model": "local/tiny", "provider": {"local": provider}}
        (tmp_path / "opencode.json").write_text(json.dumps(config))
        quiet = {f"OPENCODE_DISABLE_{name}": "1" for name in ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD")}
        quiet["OPENCODE_CONFIG"] = str(tmp_path / "opencode.json")
        (tmp_path / "work").mkdir()
        said = run([opencode, "run", "What is the answer?"], tmp_path / "work", **quiet)
    assert "The shell said 42." in said
