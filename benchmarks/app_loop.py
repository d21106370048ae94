"""How late the event loop of a desktop application is while a model loads and writes: examples/mac_app, used by itself.

A conversation of many turns with SmolLM2-135M at 4 bits, in Qt's window without a screen.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.tables import parser, publish
from examples.mac_app.loop_watch import BUCKETS_MS
from llama3_mlx.convert import convert
from tests.support.smollm2 import gguf_path


def measure(model: Path, folder: Path, turns: int) -> dict[str, Any]:
    """Return what examples.mac_app.drive prints."""
    environment = {
        **os.environ,
        "QT_QPA_PLATFORM": "offscreen",
        "TOGA_BACKEND": "toga_qt",
        "XDG_DATA_HOME": str(folder / "data"),
        "LLAMA3_MLX_HOME": str(folder / "home"),
    }
    command = [sys.executable, "-m", "examples.mac_app.drive", str(model), str(folder), str(turns)]
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--turns", type=int, default=50)
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        convert(gguf_path(), folder / "model", bits=4, group_size=32, embedding_bits=8)
        found = measure(folder / "model", folder, args.turns)
    rows = []
    for title, waits in (("loading", found["loading"]), (f"{args.turns} turns", found["talking"])):
        rows.append([f"{title}: late by", *map(str, waits["late"]), f"{waits['longest_ms']:.1f}"])
        rows.append(
            [
                f"{title}: of it at most the model's",
                *map(str, waits["for_model"]),
                f"{waits['longest_for_model_ms']:.1f}",
            ]
        )
    header = ["timers of 2 ms", *(f"≤ {end} ms" for end in BUCKETS_MS), "more", "longest, ms"]
    note = (
        "Llama Desk in Qt's window, SmolLM2-135M at 4 bits, answers of 8 tokens. What is at most the model's is the "
        f"processor time of its Python threads in the meantime. The model ran {found['model_calls']} times, "
        f"{found['model_calls_on_loop']} of them on the event loop's thread. Other programs made the loop late, "
        f"too: the machine's load was {os.getloadavg()[1]:.0f} on {os.cpu_count()} cores."
    )
    publish("Event loop of an application", header, rows, note, args.write)


if __name__ == "__main__":
    main()
