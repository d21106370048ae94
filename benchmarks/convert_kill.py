"""Kills a conversion at random moments, calls it again, and compares the files with those of a run that wasn't killed.

Of each kill: after how many seconds, how many tensors the second run took over, how long it took.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

from benchmarks.random_model import SHAPES, make_model
from benchmarks.tables import parser, publish

_COMMAND = [sys.executable, "-m", "llama3_mlx", "convert"]


def checksums(folder: Path) -> dict[str, int]:
    """Return a checksum of each file."""
    values = {}
    for path in sorted(folder.iterdir()):
        value = 0
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                value = zlib.crc32(block, value)
        values[path.name] = value
    return values


def timed(command: list[str]) -> tuple[float, int]:
    """Run to the end; return seconds and the number of tensors that came from an earlier run."""
    began = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - began, json.loads(done.stdout)["resumed_modules"]


def killed(command: list[str], after_s: float) -> bool:
    """Start, wait, kill; return whether it was still at work."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(timeout=after_s)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def main() -> None:
    arguments: argparse.ArgumentParser = parser(__doc__)
    arguments.add_argument("--size", choices=SHAPES, default="1b")
    arguments.add_argument("--folder", type=Path, required=True, help="where the model is made, or already is")
    arguments.add_argument("--kills", type=int, default=10)
    arguments.add_argument("--seed", type=int, default=0)
    args = arguments.parse_args()
    source = make_model(args.folder, args.size)
    whole, dest = (source.with_name(f"{source.name}-{name}") for name in ("whole", "killed"))
    options = ["--bits", "4", "--json"]
    shutil.rmtree(whole, ignore_errors=True)
    whole_s, _ = timed([*_COMMAND, str(source), str(whole), *options])
    expected = checksums(whole)
    rng = random.Random(args.seed)
    rows: list[list[str]] = []
    while len(rows) < args.kills:
        command = [*_COMMAND, str(source), str(dest), *options]
        after_s = rng.uniform(0, whole_s)
        if killed(command, after_s):
            took_s, resumed = timed(command)
            same = "yes" if checksums(dest) == expected else "NO"
            rows.append([f"{after_s:.1f}", str(resumed), f"{took_s:.1f}", same])
        shutil.rmtree(dest, ignore_errors=True)
    shutil.rmtree(whole)
    note = f"A random {args.size.upper()} to 4 bits; an uninterrupted run took {whole_s:.1f} s."
    header = ["killed after, s", "tensors reused", "second run, s", "same bytes"]
    publish("Converter, killed and resumed", header, rows, note, args.write)


if __name__ == "__main__":
    main()
