"""Models over 2, 3 and 4 processes on loopback compute what one process computes, and send what `plan` says."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .test_group import free_port

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
    if size == 2:
        compare_with_mlx_lm({case: values for case, values in found.items() if values["logits"] is not None}, tmp_path)
    for case, values in found.items():
        for figure in ("messages", "bytes", "weights"):
            counted, planned = values[figure]
            assert counted == planned, (case, figure)


def compare_with_mlx_lm(found: dict[str, Any], tmp_path: Path) -> None:
    """Compare with mlx-lm's own tensor parallelism, which fails where key/value heads don't divide."""
    hosts, out = tmp_path / "hosts.json", tmp_path / "mlx_lm.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{free_port()}"] for _ in range(2)]))
    folders = [values["folder"] for values in found.values()]
    command = [sys.executable, "-m", "tests.distributed.mlx_lm_worker", str(out), *folders]
    ranks = [
        subprocess.Popen(command, cwd=ROOT, env={**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)})
        for rank in range(2)
    ]
    try:
        assert [rank.wait(120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    theirs = json.loads(out.read_text())
    for case, values in found.items():
        logits = theirs[values["folder"]]
        if int(case.split()[1].partition("/")[2]) % 2:
            assert isinstance(logits, str), case
        else:
            assert np.abs(np.array(logits) - np.array(values["logits"])).max() < 1e-5, case
