"""llama.cpp itself, through the package xllamacpp, as the reference of GGUF export."""

import json
import urllib.request
from pathlib import Path
from typing import Any


def greedy_text(file: Path, prompt: str | list[int], n_tokens: int, adapter: Path | None = None) -> str:
    """Return what llama.cpp writes after a prompt, with a GGUF adapter or without, the most likely token each time."""
    text: str = _complete(file, prompt, n_tokens, adapter)["choices"][0]["text"]
    return text


def prompt_length(file: Path, prompt: str) -> int:
    """Return how many tokens llama.cpp makes of a prompt."""
    n: int = _complete(file, prompt, 1)["usage"]["prompt_tokens"]
    return n


def _complete(file: Path, prompt: str | list[int], n_tokens: int, adapter: Path | None = None) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.warmup = 512, 1, 2, False
    if adapter is not None:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = str(adapter), 1.0
        params.lora_adapters = [info]
    server = xllamacpp.Server(params)
    return server.handle_completions(
        {"prompt": prompt, "max_tokens": n_tokens, "temperature": 0.0, "cache_prompt": False}
    )


def token_ids(file: Path, texts: list[str]) -> list[list[int]]:
    """Return the ids that llama.cpp makes of texts, with the beginning of text where the file asks for it."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.warmup = 64, 1, 1, False
    server = xllamacpp.Server(params)
    found = []
    for text in texts:
        body = json.dumps({"content": text, "add_special": True}).encode()
        request = urllib.request.Request(f"{server.listening_address}/tokenize", body)
        with urllib.request.urlopen(request) as answer:
            found.append(json.load(answer)["tokens"])
    return found
