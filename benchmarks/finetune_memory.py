"""Whether a training process grows: resident memory (active and allocator's cache) from step 50 to 500.

A tiny model of Llama 3's vocabulary learns dialogs of 20 to 400 tokens, packed into rows and unpacked.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.finetune_data import make_data
from benchmarks.tables import parser, publish
from tests.support.llama3_tokenizer import save_llama3_tokenizer
from tests.support.tiny_model import save_tiny

STEPS = (50, 100, 200, 300, 400, 500)
PROGRAM = """
import os, sys
from pathlib import Path
from llama3_mlx.finetune import Callback, train

class Resident(Callback):
    def on_step(self, report):
        if report.step in map(int, sys.argv[5].split(",")):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            print("resident", pages * os.sysconf("SC_PAGE_SIZE"), flush=True)

model, data, out, packing, steps = sys.argv[1:]
train(model, Path(data) / "train.jsonl", out, steps=int(steps.split(",")[-1]), batch_size=2, packing=packing == "yes",
      samples=0, report=False, save_every=100, callbacks=[Resident()])
"""


def resident(model: Path, data: Path, out: Path, *, packing: bool, steps: tuple[int, ...] = STEPS) -> list[int]:
    """Train in a process of its own; return its resident bytes at the steps."""
    arguments = [str(model), str(data), str(out), "yes" if packing else "no", ",".join(map(str, steps))]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True, check=True, env=os.environ
    )
    return [int(line.split()[1]) for line in run.stdout.splitlines() if line.startswith("resident ")]


def tiny(folder: Path) -> Path:
    """Write the tiny model with Llama 3's tokenizer."""
    folder.mkdir()
    save_llama3_tokenizer(folder)
    return save_tiny(folder)


def main() -> None:
    """Measure, print the table."""
    args = parser(__doc__).parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        model = tiny(Path(name) / "model")
        data = make_data("mixed", model, Path(name) / "data", 400)
        for label, packing in (("packed", True), ("not packed", False)):
            found = resident(model, data, Path(name) / label, packing=packing)
            rows.append([label, *(f"{size / 1e6:.0f}" for size in found), f"{found[-1] / found[0]:.3f}"])
    header = ["resident MB after steps", *map(str, STEPS), "last by first"]
    note = "A tiny model of Llama 3's vocabulary, LoRA, batches of 2 rows, dialogs of 20 to 400 tokens."
    publish("Memory of a long training run", header, rows, note, args.write)


if __name__ == "__main__":
    main()
