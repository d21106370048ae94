"""Further clients, unmodified, against a real server on loopback: litellm, llm with llm-ollama, lm-eval."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama3_mlx import Llama

from .server_fixtures import Running, running_server

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def server(smollm2_folder: Path) -> Iterator[Running]:
    with running_server({"smollm2": smollm2_folder}) as running:
        yield running


@pytest.fixture(scope="module")
def llama(smollm2_folder: Path) -> Llama:
    return Llama.load(smollm2_folder)


def in_process_of_its_own(script: str, *arguments: str) -> Any:
    """Run a script that prints JSON on its last line; its client's warnings are none of ours."""
    environment = {**os.environ, "OPENAI_API_KEY": "none", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=240, env=environment
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.strip().splitlines()[-1])


LITELLM = """
import json, sys, litellm
url, messages = sys.argv[1], [{"role": "user", "content": "What is the capital of France?"}]
settings = {"messages": messages, "max_tokens": 5, "temperature": 0}
openai = litellm.completion(model="openai/smollm2", api_base=url + "/v1", api_key="none", **settings)
chat = litellm.completion(model="ollama_chat/smollm2", api_base=url, **settings)
stream = litellm.completion(model="ollama_chat/smollm2", api_base=url, stream=True, **settings)
anthropic = litellm.completion(model="anthropic/smollm2", api_base=url, api_key="none", **settings)
texts = [reply.choices[0].message.content for reply in (openai, chat, anthropic)]
texts.append("".join(chunk.choices[0].delta.content or "" for chunk in stream))
print(json.dumps(texts))
"""


def test_litellm_reaches_all_three_protocols(server: Running, llama: Llama) -> None:
    pytest.importorskip("litellm")
    expected = llama.chat(QUESTION, max_tokens=5, temperature=0).text
    assert in_process_of_its_own(LITELLM, server.url) == [expected] * 4


def test_llm_with_its_ollama_plugin_finds_and_uses_the_model(server: Running, llama: Llama, tmp_path: Path) -> None:
    pytest.importorskip("llm_ollama")
    environment = {**os.environ, "OLLAMA_HOST": server.url, "LLM_USER_PATH": str(tmp_path)}
    environment["LLM_LOAD_PLUGINS"] = "llm-ollama"
    options = ["-o", "num_predict", "5", "-o", "temperature", "0", "--no-log"]
    run = subprocess.run(
        [Path(sys.executable).parent / "llm", "-m", "smollm2", *options, QUESTION[0]["content"]],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == llama.chat(QUESTION, max_tokens=5, temperature=0).text
