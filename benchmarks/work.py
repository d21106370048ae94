"""What one greedy decode step does, counted from its graph as Metal runs it: launches, bytes, host time; on SmolLM2.

Rotary embedding, norm and attention are one launch each, in both programs, whatever MLX's CPU back end makes of them.
"""

import tempfile
from pathlib import Path

from benchmarks.tables import parser, publish
from llama3_mlx.bench.mlx_lm_program import MlxLm
from llama3_mlx.bench.ours import Ours
from llama3_mlx.convert import convert
from tests.support.smollm2 import save_smollm2

_LAYERS, _ROUNDS = 30, 4


def compared(title: str, ours: float, theirs: float, digits: int = 0) -> list[str]:
    """Return one row of the table."""
    return [title, f"{ours:,.{digits}f}", f"{theirs:,.{digits}f}", f"{ours / theirs:.2f}"]


def counted(label: str, folder: Path, depth: int) -> list[list[str]]:
    """Return the rows of one folder; the two programs' host times alternate, and the least counts."""
    programs = Ours(), MlxLm()
    weights = [program.load(str(folder), "float32")["weight_bytes"] for program in programs]
    ours, theirs = (program.count(depth) for program in programs)
    rounds = [[program.host(depth) for program in programs] for _ in range(_ROUNDS)]
    host = [min(times) * 1e6 for times in zip(*rounds, strict=True)]
    return [
        compared(f"operations, {label}", ours["operations"], theirs["operations"]),
        compared(f"kernel launches, {label}", ours["launches"], theirs["launches"]),
        compared(f"launches by layers, {label}", ours["launches"] / _LAYERS, theirs["launches"] / _LAYERS, 1),
        compared(f"µs of the host to build the graph, {label}", *host),
        compared(f"MB read, {label}", ours["bytes_read"] / 1e6, theirs["bytes_read"] / 1e6, 1),
        compared(
            f"bytes read by weight bytes, {label}",
            ours["bytes_read"] / weights[0],
            theirs["bytes_read"] / weights[1],
            3,
        ),
    ]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--depth", type=int, default=256, help="tokens in the context")
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        whole = save_smollm2(Path(name))
        quantized = Path(name) / "quantized"
        convert(whole, quantized, bits=4)
        folders = (("float32", whole), ("4 bits", quantized))
        rows = [row for label, folder in folders for row in counted(label, folder, args.depth)]
    note = (
        f"SmolLM2-135M, one greedy step after {args.depth} tokens. Launches are operations that compute; the others "
        "only reshape or view an array. Bytes are those of weights and caches. Where the GPU is fast and the model "
        "small, the CPU time in which the host builds a step's graph bounds the rate: the least of "
        f"{_ROUNDS} alternating rounds."
    )
    publish("Work of a decode step", ["", "llama3-mlx", "mlx-lm", "ratio"], rows, note, args.write)


if __name__ == "__main__":
    main()
