"""Peak memory and wall time of a conversion to 4 bits against mlx_lm.convert, and how right the dry run is.

Whole processes, one after the other, in turn. Needs space for the model and two results: 26 GB for the 8B.
"""

import json
import shutil
import sys
from pathlib import Path

from benchmarks.processes import Run, run
from benchmarks.random_model import SHAPES, make_model
from benchmarks.tables import parser, publish

QUALITIES = ("rtn", "fast")


def _ratios(values: dict[str, float]) -> str:
    return ", ".join(f"{values[name] / values['mlx-lm']:.2f}" for name in QUALITIES)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--size", choices=SHAPES, default="1b")
    arguments.add_argument("--folder", type=Path, required=True, help="where the model is made, or already is")
    arguments.add_argument("--times", type=int, default=2, help="rounds; the fastest of each side counts")
    args = arguments.parse_args()
    source = str(make_model(args.folder, args.size))
    dest = args.folder.parent / f"{args.folder.name}-converted"
    shutil.rmtree(dest, ignore_errors=True)
    ours = ["llama3-mlx", "convert", source, str(dest), "--bits", "4"]
    theirs = [sys.executable, "-m", "benchmarks.peer", "mlx_lm.convert", "--hf-path", source]
    theirs += ["--mlx-path", str(dest), "-q", "--q-bits", "4"]
    commands = {**{name: [*ours, "--quality", name] for name in QUALITIES}, "mlx-lm": theirs}
    told = [json.loads(run([*commands[name], "--dry-run", "--json"]).output) for name in QUALITIES]
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    sizes = 0
    for _ in range(args.times):
        for name, command in commands.items():
            try:
                runs[name].append(run(command))
                sizes = sum(path.stat().st_size for path in dest.glob("*.safetensors"))
            finally:
                shutil.rmtree(dest, ignore_errors=True)
    best = {name: min(held, key=lambda one: one.wall_s) for name, held in runs.items()}
    peaks = {name: one.peak_bytes / 1e9 for name, one in best.items()}
    walls = {name: one.wall_s for name, one in best.items()}
    rows = [
        ["peak GB", *(f"{value:.2f}" for value in peaks.values()), _ratios(peaks),
         *(f"{one['peak_memory_bytes'] / 1e9:.2f}" for one in told)],
        ["wall seconds", *(f"{value:.1f}" for value in walls.values()), _ratios(walls),
         *(f"{one['seconds']:.1f}" for one in told)],
        ["weight files, GB", *[f"{sizes / 1e9:.3f}"] * 3, "",
         *(f"{sum(one['files'].values()) / 1e9:.3f}" for one in told)],
    ]  # fmt: skip
    note = (
        f"A random {args.size.upper()} in bfloat16 to 4 bits, groups of 64; whole processes, fastest of {args.times}."
    )
    header = ["", *QUALITIES, "mlx-lm", "ratios", *(f"dry run, {name}" for name in QUALITIES)]
    publish(f"Converter, {args.size.upper()}", header, rows, note, args.write)


if __name__ == "__main__":
    main()
