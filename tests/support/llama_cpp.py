"""llama.cpp itself, through the package xllamacpp, as the reference of GGUF export.

It runs in a process of its own, which ends without closing the server: closing can wait for ever in native code.
"""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

DEADLINE_S = 120


def greedy_text(file: Path, prompt: str | list[int], n_tokens: int, adapter: Path | None = None) -> str:
    """Return what llama.cpp writes after a prompt, with a GGUF adapter or without, the most likely token each time."""
    (answer,) = _answers(file, "completions", [_completion(prompt, n_tokens)], adapter)
    text: str = answer["choices"][0]["text"]
    return text


def prompt_lengths(file: Path, prompts: list[str]) -> list[int]:
    """Return how many tokens llama.cpp makes of each prompt."""
    answers = _answers(file, "completions", [_completion(prompt, 1) for prompt in prompts])
    return [answer["usage"]["prompt_tokens"] for answer in answers]


def grammar_texts(file: Path, grammars: list[str]) -> list[str]:
    """Return what llama.cpp writes under each GBNF grammar."""
    answers = _answers(file, "completions", [{**_completion("a", 32), "grammar": grammar} for grammar in grammars])
    return [answer["choices"][0]["text"] for answer in answers]


def token_ids(file: Path, texts: list[str]) -> list[list[int]]:
    """Return the ids that llama.cpp makes of texts, with the beginning of text where the file asks for it."""
    answers = _answers(file, "tokenize", [{"content": text, "add_special": True} for text in texts])
    return [answer["tokens"] for answer in answers]


def _completion(prompt: str | list[int], n_tokens: int) -> dict[str, Any]:
    return {"prompt": prompt, "max_tokens": n_tokens, "temperature": 0.0, "cache_prompt": False}


def _answers(file: Path, kind: str, bodies: list[dict[str, Any]], adapter: Path | None = None) -> list[Any]:
    asked = json.dumps({"file": str(file), "kind": kind, "bodies": bodies, "adapter": str(adapter or "")})
    command = [sys.executable, "-m", __name__]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, input=asked, capture_output=True, text=True, timeout=DEADLINE_S, check=False, cwd=root
    )
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def _serve(asked: dict[str, Any]) -> list[Any]:
    """Answer all requests with one server."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = asked["file"]
    # Several threads spin while they wait for each other, on a busy machine for minutes.
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.warmup = 512, 1, 1, False
    if asked["adapter"]:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = asked["adapter"], 1.0
        params.lora_adapters = [info]
    global _server
    _server = xllamacpp.Server(params)
    return [_answer(_server, asked["kind"], body) for body in asked["bodies"]]


def _answer(server: Any, kind: str, body: dict[str, Any]) -> Any:
    if kind == "completions":
        return server.handle_completions(body)
    request = urllib.request.Request(f"{server.listening_address}/{kind}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
        return json.load(answer)


# Held until the process has ended.
_server: Any = None

if __name__ == "__main__":
    print(json.dumps(_serve(json.load(sys.stdin))), flush=True)
    os._exit(0)
