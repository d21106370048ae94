"""What is measured of a program, and the loop of the process in which one program is measured.

A process reads one JSON object a line from its standard input and answers each with one line: the result, or
`{"error": message}`. What the program itself prints goes to stderr.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Protocol

from ..errors import Llama3MLXError
from ..json_types import JsonObject

Result = dict[str, float]


class Program(Protocol):
    """A way to run a model. Seconds, bytes and tokens a second; `prompts` are token ids."""

    def load(self, folder: str, dtype: str) -> Result:
        """Load the model and compute in `dtype`; return load_s, weight_bytes."""

    def generate(self, prompt: list[int], tokens: int) -> Result:
        """Generate exactly `tokens` tokens, greedily; return prefill_per_second, decode_per_second, peak_bytes."""

    def batch(self, prompts: list[list[int]], tokens: int) -> Result:
        """Do the same for several prompts at once; return batch_per_second (generated tokens), peak_bytes."""

    def count(self, depth: int) -> Result:
        """Count one decode step after `depth` tokens: operations, launches, bytes_read."""


def answer_requests(program: Program, **others: Callable[..., Result]) -> None:
    """Answer requests until standard input ends; `others` are what only this program can be called for."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    calls: dict[str, Callable[..., Result]] = {
        "load": program.load,
        "generate": program.generate,
        "batch": program.batch,
        "count": program.count,
        **others,
    }
    for line in sys.stdin:
        request: JsonObject = json.loads(line)
        try:
            answer: JsonObject = calls[request.pop("call")](**request)
        except Llama3MLXError as error:
            answer = {"error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
