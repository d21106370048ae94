"""Prefixes that are kept on disk over some processes: what a host (see node_host.py) finds."""

import shutil
from pathlib import Path
from typing import Any

from llama3_mlx import CacheOptions, Llama
from llama3_mlx.distributed.prefix_parts import part_label
from llama3_mlx.library.home import prefix_folder
from llama3_mlx.prefix_cache.disk import chain, model_fingerprint

from .engine_worker import GREEDY, load

PROMPT = "The quick brown fox jumps over the lazy dog. " * 9


def parts(llama: Llama, rank: int) -> list[Path]:
    """Return the files of a rank's part of the prompt's blocks, which lie in one folder with all others'."""
    assert llama._group is not None
    label = part_label(CacheOptions(), llama._group.shares[rank])
    fingerprint = model_fingerprint(llama.folder, dtype="mlx.core.float32", cache_kind=label)
    return [prefix_folder() / f"{key}.safetensors" for key in chain(fingerprint, llama.prompts.text(PROMPT))]


def kept(size: int, split: str, folder: str) -> dict[str, Any]:
    """Return what is said in one process after another, and how much of the prompt each found on disk."""
    found: dict[str, Any] = {}
    shutil.rmtree(prefix_folder(), ignore_errors=True)

    def say(name: str, nodes: int, split: str) -> list[Path]:
        with load(nodes, split, folder, disk_cache=True) as llama:
            done = llama.generate(PROMPT, **GREEDY)
            found[name] = [list(done.token_ids), done.cached_tokens]
            return parts(llama, 1) if nodes > 1 else []

    say("one", 1, split)
    say("cold", size, split)
    files = say("warm", size, split)
    say("other split", size, "pipeline" if split == "tensor" else "tensor")
    files[1].unlink()
    say("one block", size, split)
    files[0].write_bytes(files[0].read_bytes()[:-1] + b"?")
    say("damaged", size, split)
    say("written again", size, split)
    return found
