"""Peak memory and wall time of a conversion to 4 bits against mlx_lm.convert, and how right the dry run is.

Whole processes, one after the other, in turn. Needs space for the model and two results: 26 GB for the 8B.
"""

import json
import shutil
from pathlib import Path

from benchmarks.processes import Run, run
from benchmarks.random_model import SHAPES, make_model
from benchmarks.tables import parser, publish


def converted(command: list[str], dest: Path) -> Run:
    """Run a conversion and delete its result."""
    try:
        return run(command)
    finally:
        shutil.rmtree(dest, ignore_errors=True)


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
    theirs = ["mlx_lm.convert", "--hf-path", source, "--mlx-path", str(dest), "-q", "--q-bits", "4"]
    expected = json.loads(run([*ours, "--dry-run", "--json"]).output)
    runs: dict[str, list[Run]] = {"ours": [], "theirs": []}
    sizes = 0
    for _ in range(args.times):
        report = run([*ours, "--json"])
        sizes = sum(path.stat().st_size for path in dest.glob("*.safetensors"))
        shutil.rmtree(dest)
        runs["ours"].append(report)
        runs["theirs"].append(converted(theirs, dest))
    best = {side: min(held, key=lambda one: one.wall_s) for side, held in runs.items()}
    ours_best, theirs_best = best["ours"], best["theirs"]
    rows = [
        [
            "peak GB",
            f"{ours_best.peak_bytes / 1e9:.2f}",
            f"{theirs_best.peak_bytes / 1e9:.2f}",
            f"{ours_best.peak_bytes / theirs_best.peak_bytes:.2f}",
            f"{expected['peak_memory_bytes'] / 1e9:.2f}",
        ],
        [
            "wall seconds",
            f"{ours_best.wall_s:.1f}",
            f"{theirs_best.wall_s:.1f}",
            f"{ours_best.wall_s / theirs_best.wall_s:.2f}",
            f"{expected['seconds']:.1f}",
        ],
        ["weight files, GB", f"{sizes / 1e9:.3f}", "", "", f"{sum(expected['files'].values()) / 1e9:.3f}"],
    ]
    note = (
        f"A random {args.size.upper()} in bfloat16 to 4 bits, groups of 64; whole processes, fastest of {args.times}."
    )
    header = ["", "llama3-mlx", "mlx-lm", "ratio", "dry run said"]
    publish(f"Converter, {args.size.upper()}", header, rows, note, args.write)


if __name__ == "__main__":
    main()
