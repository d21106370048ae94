"""How close quantized models stay to their source, at how many bits, in what time and memory: ours and mlx-lm's.

Every conversion is a process of its own, and all are calibrated on the same windows of our built-in texts. mlx-lm's
figures have its defaults but for what stands in benchmarks/quality_peers.py. Time is processor time, which other work
on the machine hardly changes. The KL divergence is measured afterwards, on text that nothing was calibrated on: the
documentation topics of Python's own `pydoc`, which every installation has. Takes hours on two cores for SmolLM2-135M.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

from benchmarks.tables import parser, publish
from llama3_mlx.convert.quantization.corpus import token_windows
from llama3_mlx.convert.quantization.divergence import distance
from llama3_mlx.convert.quantization.methods import tokenizer_of, windows_for
from llama3_mlx.convert.sources.huggingface import HFSource

THEIRS = ("rtn", "rtn8", "gptq", "gptq6", "awq", "dwq", "dwq5", "dynamic_quant")
OURS = {
    "fast": ["--bits", "4", "--quality", "fast"],
    "fast8": ["--bits", "8", "--quality", "fast"],
    "calibrated": ["--bits", "4", "--quality", "calibrated"],
    "distilled": ["--bits", "4", "--quality", "distilled"],
    "target4.6": ["--target-bpw", "4.6"],
    "target4.9": ["--target-bpw", "4.9"],
    "target5.0": ["--target-bpw", "5.0"],
}


def converted(name: str, model: Path, dest: Path, kept: Path) -> tuple[float, float]:
    """Run one conversion on the kept calibration text; return its processor seconds and its peak memory in GB."""
    if name in OURS:
        text = [] if name.startswith("fast") else ["--calibration", str(kept / "text.txt")]
        command = ["-m", "llama3_mlx", "convert", str(model), str(dest), *OURS[name], *text]
    else:
        command = ["-m", "benchmarks.quality_peers", name, str(model), str(dest), str(kept / "windows.json")]
    process = subprocess.Popen([sys.executable, *command], stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{name} failed")
    unit = 1 if sys.platform == "darwin" else 1024
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e9


def save_calibration(source: HFSource, count: int | None, folder: Path) -> None:
    """Write `count` of the built-in windows of 256 tokens (default: all), and the text that they stand for."""
    windows = windows_for(source)
    picked = windows[:: max(1, len(windows) // count)][:count] if count else windows
    (folder / "windows.json").write_text(json.dumps(picked))
    tokenizer = tokenizer_of(source)
    (folder / "text.txt").write_text("".join(tokenizer.decode(window) for window in picked), encoding="utf-8")


def evaluation_windows(source: HFSource, count: int) -> list[list[int]]:
    """Return windows from the middle of pydoc's topics."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    return token_windows(tokenizer_of(source), [text[20_000:]])[:count]


def bits_per_weight(folder: Path, parameters: int) -> float:
    """Return the bits of all tensors over the number of weights."""
    sizes = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
        sizes += file.stat().st_size - 8 - length
    return sizes * 8 / parameters


def main() -> None:
    """Convert, measure, print the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--model", type=Path, required=True, help="folder of Hugging Face safetensors")
    arguments.add_argument("--only", nargs="+", choices=(*THEIRS, *OURS), default=[*THEIRS, *OURS])
    arguments.add_argument("--windows", type=int, default=8, help="windows of 256 tokens to measure on")
    arguments.add_argument("--calibration-windows", type=int, help="windows to calibrate on (default: all built-in)")
    arguments.add_argument("--kept", type=Path, help="folder that keeps the results, and whose results are not redone")
    args = arguments.parse_args()
    source = HFSource(args.model)
    parameters = sum(ref.rows * (ref.shape[1] if len(ref.shape) > 1 else 1) for ref in source.tensors())
    measured_on = evaluation_windows(source, args.windows)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        kept = args.kept or Path(temporary)
        kept.mkdir(parents=True, exist_ok=True)
        save_calibration(source, args.calibration_windows, kept)
        for name in args.only:
            dest, taken = kept / name, kept / f"{name}.json"
            if not taken.exists():
                shutil.rmtree(dest, ignore_errors=True)
                taken.write_text(json.dumps(converted(name, args.model, dest, kept)))
            seconds, peak = json.loads(taken.read_text())
            result = HFSource(dest)
            found = distance(source, result, measured_on)
            result.close()
            side = "llama3-mlx" if name in OURS else "mlx-lm"
            rows.append(
                [
                    f"{side} {re.sub(r'(?<=[a-z])(?=[0-9])', ' ', name)}",
                    f"{bits_per_weight(dest, parameters):.2f}",
                    f"{found.kl:.4f}",
                    f"{found.source_perplexity:.2f} → {found.perplexity:.2f}",
                    f"{found.top1_agreement:.1%}",
                    f"{seconds:.0f}",
                    f"{peak:.2f}",
                ]
            )
            sys.stderr.write(" | ".join(rows[-1]) + "\n")
    header = [
        "quantizer",
        "bits per weight",
        "KL, nats per token",
        "perplexity",
        "same most likely token",
        "processor s",
        "peak GB",
    ]
    publish(
        "Quality of quantized weights", header, rows, (__doc__ or "").split("\n\n")[1].replace("\n", " "), args.write
    )


if __name__ == "__main__":
    main()
