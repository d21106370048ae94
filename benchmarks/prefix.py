"""A prompt of 2,000 tokens in a new process: time to its first token, with its blocks on disk and without.

SmolLM2 in float32. Each call is a process of its own; the time runs from the loaded model to the first token.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.tables import parser, publish
from tests.support.smollm2 import save_smollm2

TOKENS = 2000

_ASK = """
import json, sys, time
from llama3_mlx import Llama
with Llama.load(sys.argv[1]) as llama:
    llama.generate([1, 2, 3], max_tokens=1)
    done = llama.generate(json.loads(sys.argv[2]), max_tokens=1, temperature=0)
print(json.dumps([done.first_token_s, done.cached_tokens, done.token_ids]))
"""


def first_token(folder: Path, prompt: list[int], home: Path) -> tuple[float, int, list[int]]:
    """Ask in a new process; return seconds, tokens that were cached, and the token."""
    environment = {**os.environ, "LLAMA3_MLX_HOME": str(home), "LLAMA3_MLX_CACHE_GB": "4"}
    arguments = [sys.executable, "-c", _ASK, str(folder), json.dumps(prompt)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment)
    seconds, cached, tokens = json.loads(done.stdout)
    return seconds, cached, tokens


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    args = arguments.parse_args()
    cold, warm, cached = [], [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        folder.mkdir()
        save_smollm2(folder)
        for at in range(args.rounds):
            prompt = [(7 * token * (at + 3)) % 40000 + 100 for token in range(TOKENS)]
            seconds, none, token = first_token(folder, prompt, Path(name) / "home")
            again, cached, same = first_token(folder, prompt, Path(name) / "home")
            assert (none, token) == (0, same), "the text is the same, and nothing was known before"
            cold.append(seconds)
            warm.append(again)
    a, b = statistics.median(cold), statistics.median(warm)
    rows = [["time to first token, s", f"{a:.2f}", f"{b:.3f}", f"{b / a:.3f}"]]
    note = (
        f"A prompt of {TOKENS} tokens, SmolLM2-135M in float32, a new process each time, median of {args.rounds}. "
        f"{cached} tokens come from disk, the rest is prefilled. OpenBLAS computes."
    )
    publish("Prefix cache on disk", ["", "empty cache", "blocks on disk", "ratio"], rows, note, args.write)


if __name__ == "__main__":
    main()
