"""Prefixes on disk: found by model and tokens, never used when damaged, shared by processes."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from llama3_mlx import CacheOptions, Llama
from llama3_mlx.prefix_cache.disk import BLOCK, BlockStore, model_fingerprint

from ..support.tiny_model import save_tiny

TOKENS = [int(token) for token in np.random.default_rng(0).integers(0, 1000, 3 * BLOCK + 40)]


def arrays_of(start: int, stop: int) -> list[mx.array]:
    """Arrays of several dtypes that tell which block they are of."""
    x = mx.random.normal((1, 2, stop - start, 8), key=mx.random.key(start))
    return [x, x.astype(mx.float16), x.astype(mx.bfloat16), (x * 1000).astype(mx.int32).astype(mx.uint32)]


def equal(one: list[mx.array], other: list[mx.array]) -> bool:
    return len(one) == len(other) and all(
        a.dtype == b.dtype and bool(mx.array_equal(a, b).item()) for a, b in zip(one, other, strict=True)
    )


@pytest.fixture
def disk(tmp_path: Path) -> BlockStore:
    return BlockStore(tmp_path / "prefixes", 10**9, model="tiny")


def test_blocks_come_back_as_they_were_saved(disk: BlockStore) -> None:
    disk.save("a", TOKENS, arrays_of)
    assert disk.find("a", TOKENS) == 3 * BLOCK
    blocks = disk.load("a", TOKENS)
    assert all(equal(block, arrays_of(at * BLOCK, 0 + (at + 1) * BLOCK)) for at, block in enumerate(blocks))
    assert len(blocks) == 3


def test_a_block_is_found_after_its_predecessors_only(disk: BlockStore) -> None:
    disk.save("a", TOKENS, arrays_of)
    changed = [*TOKENS[: BLOCK + 3], 5000, *TOKENS[BLOCK + 4 :]]
    assert disk.find("a", changed) == len(disk.load("a", changed)) * BLOCK == BLOCK
    assert disk.find("a", [1, *TOKENS]) == 0
    assert disk.find("b", TOKENS) == 0
    assert disk.find("a", TOKENS[: BLOCK - 1]) == 0


def test_no_byte_of_a_block_can_change_unseen(disk: BlockStore) -> None:
    disk.save("a", TOKENS[:BLOCK], arrays_of)
    (path,) = disk.folder.iterdir()
    whole, rng = path.read_bytes(), random.Random(0)
    places = [*range(0, 60), *(rng.randrange(len(whole)) for _ in range(120))]
    for at in places:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :])
        blocks = disk.load("a", TOKENS)
        assert not blocks or equal(blocks[0], arrays_of(0, BLOCK)), at
        if not blocks:
            assert not path.exists()
            path.write_bytes(whole)


@pytest.mark.parametrize("damage", [b"", b"\0" * 5000, b"\xff" * 64, (2**60).to_bytes(8, "little") + b"{}"])
def test_garbage_is_deleted_and_not_used(disk: BlockStore, damage: bytes) -> None:
    disk.save("a", TOKENS, arrays_of)
    paths = sorted(disk.folder.iterdir(), key=lambda path: -path.stat().st_mtime_ns)
    paths[1].write_bytes(damage)
    assert len(disk.load("a", TOKENS)) == 1
    assert not paths[1].exists()
    disk.save("a", TOKENS, arrays_of)
    assert len(disk.load("a", TOKENS)) == 3


def test_a_block_under_another_name_is_not_used(disk: BlockStore) -> None:
    disk.save("a", TOKENS[:BLOCK], arrays_of)
    (path,) = disk.folder.iterdir()
    disk.save("b", TOKENS[:BLOCK], arrays_of)
    other = next(each for each in disk.folder.iterdir() if each != path)
    other.write_bytes(path.read_bytes())
    assert disk.load("b", TOKENS) == []


def test_the_limit_holds_and_a_chain_loses_its_end_first(tmp_path: Path) -> None:
    probe = BlockStore(tmp_path / "probe", 10**9)
    probe.save("a", TOKENS[:BLOCK], arrays_of)
    size = next(probe.blocks()).nbytes
    disk = BlockStore(tmp_path / "prefixes", 5 * size + 500)
    disk.save("old", TOKENS, arrays_of)
    time.sleep(0.01)
    disk.save("new", TOKENS, arrays_of)
    assert sum(entry.nbytes for entry in disk.blocks()) <= disk.limit_bytes
    assert disk.find("new", TOKENS) == 3 * BLOCK
    assert disk.find("old", TOKENS) == 2 * BLOCK
    time.sleep(0.01)
    disk.load("old", TOKENS)
    disk.save("newest", TOKENS[:BLOCK], arrays_of)
    assert (disk.find("old", TOKENS), disk.find("new", TOKENS)) == (2 * BLOCK, 2 * BLOCK)


def test_a_folder_that_can_not_be_written_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    disk = BlockStore(tmp_path / "file" / "prefixes", 10**9)
    disk.save("a", TOKENS, arrays_of)
    assert disk.find("a", TOKENS) == 0
    assert "can't be written" in caplog.text


def test_a_fingerprint_follows_weights_config_dtype_kind_and_adapter(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model", vocab_size=320)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapters.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    found = {model_fingerprint(folder, dtype="float32", cache_kind="plain")}
    assert model_fingerprint(folder, dtype="float32", cache_kind="plain") in found
    found.add(model_fingerprint(folder, dtype="float16", cache_kind="plain"))
    found.add(model_fingerprint(folder, dtype="float32", cache_kind="kv8-0"))
    found.add(model_fingerprint(folder, dtype="float32", cache_kind="plain", adapter=adapter))
    save_tiny(folder, vocab_size=320, rope_theta=10000.0)
    found.add(model_fingerprint(folder, dtype="float32", cache_kind="plain"))
    assert len(found) == 5


_HAMMER = """
import random, sys
from pathlib import Path
from tests.prefix_cache.test_disk import BLOCK, TOKENS, BlockStore, arrays_of, equal
disk, rng, used = BlockStore(Path(sys.argv[1]), int(sys.argv[2])), random.Random(int(sys.argv[3])), 0
for _ in range(120):
    name = str(rng.randrange(4))
    disk.save(name, TOKENS, arrays_of)
    for at, block in enumerate(disk.load(name, TOKENS)):
        assert equal(block, arrays_of(at * BLOCK, (at + 1) * BLOCK))
        used += 1
    if rng.random() < 0.05:
        disk.clear()
print(used)
"""


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    probe = BlockStore(tmp_path / "probe", 10**9)
    probe.save("a", TOKENS[:BLOCK], arrays_of)
    limit = 5 * next(probe.blocks()).nbytes
    arguments = [sys.executable, "-c", _HAMMER, str(tmp_path / "shared"), str(limit)]
    running = [
        subprocess.Popen([*arguments, str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for seed in range(2)
    ]
    for process in running:
        out, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        assert int(out) > 50


_ASK = """
import json, sys
from llama3_mlx import CacheOptions, Llama
kind = CacheOptions(**json.loads(sys.argv[2]))
with Llama.load(sys.argv[1], cache=kind) as llama:
    done = llama.generate(json.loads(sys.argv[3]), max_tokens=12, temperature=0, ignore_eos=True)
print(json.dumps([done.cached_tokens, done.token_ids]))
"""


@pytest.mark.parametrize("kind", [{}, {"kv_bits": 8, "kv_start": 300}, {"window": 2000}])
def test_a_new_process_continues_from_the_disk(
    tiny_folder: Path, tmp_path: Path, kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = [int(token) for token in np.random.default_rng(1).integers(0, 100000, 900)]
    monkeypatch.setenv("LLAMA3_MLX_HOME", str(tmp_path))
    with Llama.load(tiny_folder, cache=CacheOptions(**kind)) as llama:
        expected = llama.generate(prompt, max_tokens=12, temperature=0, ignore_eos=True).token_ids
    monkeypatch.setenv("LLAMA3_MLX_CACHE_GB", "1")

    def ask() -> Any:
        arguments = [sys.executable, "-c", _ASK, str(tiny_folder), json.dumps(kind), json.dumps(prompt)]
        return json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)

    assert ask() == [0, list(expected)]
    assert ask() == [896, list(expected)]
    for path in (tmp_path / "cache" / "prefixes").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert ask() == [0, list(expected)]


def test_the_command_lists_and_clears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llama3_mlx.cli import main

    monkeypatch.setenv("LLAMA3_MLX_HOME", str(tmp_path))
    monkeypatch.setenv("LLAMA3_MLX_CACHE_GB", "2")
    folder = tmp_path / "cache" / "prefixes"
    for model in ("one", "two"):
        BlockStore(folder, 10**9, model=model).save(model, TOKENS, arrays_of)
    assert run(main, "list").count("384") == 2
    listed = json.loads(run(main, "list", "--json"))
    assert [(row["model"], row["tokens"]) for row in listed] == [("one", 384), ("two", 384)]
    assert run(main, "path").strip() == str(folder)
    assert run(main, "clear", "one", "--older-than", "1") == "freed 0.00 kB\n"
    run(main, "clear", "one")
    assert [row["model"] for row in json.loads(run(main, "list", "--json"))] == ["two"]
    run(main, "clear")
    assert "is empty" in run(main, "list")


def run(main: Any, *arguments: str) -> str:
    """Run `llama3-mlx cache` and return what it prints."""
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["cache", *arguments]) == 0
    return out.getvalue()


def test_a_draft_head_of_pytorchs_file_has_a_fingerprint_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = set()
    for content in (b"PK one", b"PK another"):
        (tmp_path / "pytorch_model.bin").write_bytes(content)
        found.add(model_fingerprint(tmp_path, dtype="float32", cache_kind="head"))
    assert len(found) == 2
