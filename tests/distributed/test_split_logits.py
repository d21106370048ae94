"""Models over 2, 3 and 4 processes on loopback compute what one process computes, and send what `plan` says."""

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ..support.processes import running
from .conftest import ROOT, Ask
from .test_group import free_port


@pytest.mark.parametrize("size", [2, 3, 4])
def test_splits_compute_what_one_process_does(size: int, tmp_path: Path, ask: Ask) -> None:
    found = ask(size, "logits_worker", "compare", folder=str(tmp_path))
    assert "can't be split" in found.pop("refused")
    too_far = {case: values for case, values in found.items() if not values["difference"] <= values["limit"]}
    assert not too_far
    if size == 2:
        compare_with_mlx_lm({case: values for case, values in found.items() if values["logits"] is not None}, tmp_path)
    for case, values in found.items():
        for figure in ("messages and bytes of a token", "messages and bytes of a chunk", "weights"):
            counted, planned = values[figure]
            assert counted == planned, (case, figure)


def test_rank_0_runs_the_next_chunk_of_a_prompt_while_the_others_are_at_one(small_chat: Path, ask: Ask) -> None:
    found = ask(2, "logits_worker", "ahead", folder=str(small_chat))
    assert found["length"] == 60
    assert found["difference"] < 1e-5


def compare_with_mlx_lm(found: dict[str, Any], tmp_path: Path) -> None:
    """Compare with mlx-lm's own tensor parallelism, which fails where key/value heads don't divide."""
    hosts, out = tmp_path / "hosts.json", tmp_path / "mlx_lm.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{free_port()}"] for _ in range(2)]))
    folders = [values["folder"] for values in found.values()]
    command = [sys.executable, "-m", "tests.distributed.mlx_lm_worker", str(out), *folders]
    with ExitStack() as started:
        variables = {**os.environ, "MLX_HOSTFILE": str(hosts)}
        both = [running(command, cwd=ROOT, env={**variables, "MLX_RANK": rank}) for rank in ("0", "1")]
        assert [rank.wait(120) for rank in [started.enter_context(rank) for rank in both]] == [0, 0]
    theirs = json.loads(out.read_text())
    for case, values in found.items():
        logits = theirs[values["folder"]]
        if int(case.split()[1].partition("/")[2]) % 2:
            assert isinstance(logits, str), case
        else:
            assert np.abs(np.array(logits) - np.array(values["logits"])).max() < 1e-5, case
