"""A model of the Hub over two processes that share no cache: each downloads the shards that it needs of a fake Hub."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from ..support.fake_hub import running_hub
from ..support.processes import WAIT_S, finished, running
from ..support.small_chat import save_small_chat
from .test_group import free_port

COMMAND = ("generate", "--raw", "Hello", "--max-tokens", "8", "--temperature", "0")


def save_in_shards(folder: Path) -> Path:
    """Write a model with a file for each of its four layers, and one for the rest."""
    save_small_chat(folder, num_hidden_layers=4)
    files: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, array in load_file(folder / "model.safetensors").items():
        parts = name.split(".")
        files[parts[2] if parts[1] == "layers" else "rest"][name] = array
    (folder / "model.safetensors").unlink()
    names = {f"part-{part}.safetensors": tensors for part, tensors in files.items()}
    for name, tensors in names.items():
        save_file(tensors, folder / name, {"format": "mlx"})
    weight_map = {tensor: name for name, tensors in names.items() for tensor in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("split", ["tensor", "pipeline"])
def test_each_process_downloads_the_files_of_its_share(split: str, tmp_path: Path) -> None:
    folder, hosts = save_in_shards(tmp_path / "model"), tmp_path / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{free_port()}"] for _ in range(2)]))
    ring = {"MLX_HOSTFILE": str(hosts), "LLAMA3_MLX_COORDINATOR": f"127.0.0.1:{free_port()}"}
    base = [sys.executable, "-m", "llama3_mlx", *COMMAND]
    alone = [*base, "-m", str(folder)]
    expected = subprocess.run(alone, capture_output=True, text=True, check=True, timeout=WAIT_S).stdout
    with running_hub() as (hub, address), ExitStack() as started:
        hub.repositories["owner/name"] = folder
        ranks: list[subprocess.Popen[str]] = []
        for rank in range(2):
            variables = {**os.environ, **ring, "MLX_RANK": str(rank), "HF_HOME": str(tmp_path / f"home{rank}")}
            variables |= {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
            command = [*base, "-m", "owner/name", "--split", split]
            pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
            rank_process = running(command, env=variables, stdin=nothing, stdout=pipe, stderr=pipe)
            ranks.append(started.enter_context(rank_process))
        outputs = [finished(rank, 120) for rank in ranks]
    assert outputs[0][0] == expected, outputs
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    held = [
        {path.stem.removeprefix("part-") for path in (tmp_path / f"home{rank}").glob("hub/*/snapshots/*/*.safetensors")}
        for rank in range(2)
    ]
    everything = {"rest", "0", "1", "2", "3"}
    # In tensor parallel the embedding is rank 0's alone.
    split_up = [everything, everything - {"rest"}]
    assert held == (split_up if split == "tensor" else [{"rest", "0", "1"}, {"2", "3"}])
