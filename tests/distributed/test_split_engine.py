"""The engine over several processes answers as it does in one: continuous batching, structure, prefixes, cancels.

Perplexity and scores of continuations are those of one process, too.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# The engine's tests that take a second or less. Those of adapters, which are refused, and of two models aren't among
# them.
ENGINE_TESTS = {
    "tensor": "samples_share or batch_keeps or reuses_it or reused_by or shared_with or cancelled or dropped "
    "or time_limit or logprobs_are_those or own_sequence",
    "pipeline": "different_settings or reuses_it or priority or form_goes",
}


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
    for ours, expected in found["measured"]:
        assert ours == pytest.approx(expected, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize(("size", "split"), [(3, "tensor"), (2, "pipeline")])
def test_smollm2_says_the_same(size: int, split: str, smollm2_folder: Path) -> None:
    found = run(size, split, smollm2_folder, 0)
    assert len(set(found["texts"])) == 1
    assert "Paris" in found["texts"][0]


@pytest.mark.parametrize("split", ["tensor", "pipeline"])
def test_the_engines_own_tests_pass_over_two_processes(split: str) -> None:
    variables = {**os.environ, "LLAMA3_MLX_TEST_NODES": "2", "LLAMA3_MLX_TEST_SPLIT": split}
    files = ("tests/engine/test_engine.py", "tests/engine/test_engine_structured.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", ENGINE_TESTS[split]]
    result = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=280)
    assert result.returncode == 0, result.stdout[-5000:]
