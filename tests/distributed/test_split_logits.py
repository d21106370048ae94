"""Models over 2, 3 and 4 processes on loopback compute what one process computes, and send what `plan` says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_splits_compute_what_one_process_does(size: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.distributed.logits_worker", str(size), str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout)
    assert "can't be split" in found.pop("refused")
    too_far = {case: values for case, values in found.items() if not values["difference"] <= values["limit"]}
    assert not too_far
    for case, values in found.items():
        for figure in ("messages", "bytes", "weights"):
            counted, planned = values[figure]
            assert counted == planned, (case, figure)
