"""What one greedy decode step does, counted from its graph as Metal runs it: launches, bytes, host time; on SmolLM2.

Rotary embedding, norm and attention are one launch each, in both programs, whatever MLX's CPU back end makes of them.
"""

import tempfile
from pathlib import Path

from benchmarks.tables import parser, publish
from llama3_mlx.bench.mlx_lm_program import MlxLm
from llama3_mlx.bench.ours import Ours
from llama3_mlx.bench.program import Program
from llama3_mlx.convert import convert
from tests.support.smollm2 import save_smollm2

_LAYERS = 30


def counted(program: Program, folder: Path, depth: int) -> dict[str, float]:
    """Return sizes and counts of one program."""
    return {**program.load(str(folder), "float32"), **program.count(depth)}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--depth", type=int, default=256, help="tokens in the context")
    args = arguments.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        whole = save_smollm2(Path(name))
        quantized = Path(name) / "quantized"
        convert(whole, quantized, bits=4)
        for label, folder in (("float32", whole), ("4 bits", quantized)):
            ours, theirs = counted(Ours(), folder, args.depth), counted(MlxLm(), folder, args.depth)
            for title, key in (("operations", "operations"), ("kernel launches", "launches")):
                ratio = f"{ours[key] / theirs[key]:.2f}"
                rows.append([f"{title}, {label}", f"{ours[key]:,.0f}", f"{theirs[key]:,.0f}", ratio])
            layers = [side["launches"] / _LAYERS for side in (ours, theirs)]
            rows.append([f"launches a layer, {label}", *(f"{n:.1f}" for n in layers), f"{layers[0] / layers[1]:.2f}"])
            host = [side["host_s"] * 1e6 for side in (ours, theirs)]
            rows.append([f"µs to build the graph, {label}", *(f"{t:,.0f}" for t in host), f"{host[0] / host[1]:.2f}"])
            read = [side["bytes_read"] / 1e6 for side in (ours, theirs)]
            rows.append([f"MB read, {label}", f"{read[0]:.1f}", f"{read[1]:.1f}", f"{read[0] / read[1]:.2f}"])
            shares = [side["bytes_read"] / side["weight_bytes"] for side in (ours, theirs)]
            titled = f"bytes read by weight bytes, {label}"
            rows.append([titled, f"{shares[0]:.3f}", f"{shares[1]:.3f}", f"{shares[0] / shares[1]:.2f}"])
    note = (
        f"SmolLM2-135M, one greedy step after {args.depth} tokens. Launches are operations that compute; "
        "the others only reshape or view an array. Bytes are those of weights and caches."
    )
    publish("Work of a decode step", ["", "llama3-mlx", "mlx-lm", "ratio"], rows, note, args.write)


if __name__ == "__main__":
    main()
