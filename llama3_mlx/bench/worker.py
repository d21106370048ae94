"""The process in which one program is measured, seen from the one that asks."""

import json
import subprocess
import sys
import tempfile
from typing import Any

from ..errors import Llama3MLXError
from ..json_types import JsonObject
from .program import Result

PROGRAMS = {"llama3-mlx": "ours", "mlx-lm": "mlx_lm_program", "llama.cpp": "llama_cpp_program"}


class Worker:
    """A process of one program; a context manager that ends it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.{PROGRAMS[name]}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        assert process.stdin is not None and process.stdout is not None, "both are pipes"
        try:
            process.stdin.close()
        except BrokenPipeError:
            process.kill()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        self._log.close()

    def call(self, call: str, **arguments: Any) -> Result:
        """Have the program do something and return its figures; raises Llama3MLXError where it fails."""
        assert self._process.stdin is not None and self._process.stdout is not None, "both are pipes"
        try:
            self._process.stdin.write(json.dumps({"call": call, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Llama3MLXError(f"{self.name} ended while it was measured: {self._last_words()}")
        answer: JsonObject = json.loads(line)
        if "error" in answer:
            raise Llama3MLXError(answer["error"])
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = [line for line in self._log.read().splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"exit code {code}"
