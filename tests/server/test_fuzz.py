"""schemathesis over the loaded OpenAPI document: no request it can think of is answered with a 5xx."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.server_fixtures import running_server

# Requests of the fuzzing phase for each of the operations.
EXAMPLES = 4


@pytest.mark.slow
def test_no_generated_request_gets_a_server_error(
    small_chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA3_MLX_HOME", str(tmp_path))
    command = [sys.executable, "-m", "schemathesis.cli", "run"]
    options = ["--checks", "not_a_server_error", "--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES)]
    # What submissions the Hub is left out; it has tests of its own.
    options += [
        "--exclude-path",
        "/api/pull",
        "--seed",
        "1",
        "--request-timeout",
        "60",
        "--suppress-health-check",
        "all",
        "--warnings",
        "off",
    ]
    with running_server({"small": small_chat}, max_tokens=2, timeout_s=5.0) as running:
        run = subprocess.run(
            [*command, f"{running.url}/openapi.json", *options],
            capture_output=True,
            text=True,
            timeout=1200,
            env={**os.environ, "NO_COLOR": "1"},
            cwd=tmp_path,
        )
        assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
        assert running.get("/health").status_code == 200
