"""The engine over several processes answers as it does in one: continuous batching, structure, prefixes, cancels."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def run(size: int, split: str, folder: Path, count: int) -> Any:
    command = [sys.executable, "-m", "tests.distributed.engine_worker", str(size), split, str(folder), str(count)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout)


@pytest.mark.parametrize("split", ["tensor", "pipeline"])
def test_mixed_requests_with_cancels_answer_as_in_one_process(split: str, small_chat: Path) -> None:
    found = run(2, split, small_chat, 300 if split == "tensor" else 60)
    assert not found["differing"]
    assert len(set(found["texts"])) == 1
    assert found["cached"][1] > 256


@pytest.mark.parametrize(("size", "split"), [(3, "tensor"), (2, "pipeline")])
def test_smollm2_says_the_same(size: int, split: str, smollm2_folder: Path) -> None:
    found = run(size, split, smollm2_folder, 0)
    assert len(set(found["texts"])) == 1
    assert "Paris" in found["texts"][0]
