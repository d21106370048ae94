"""A 4-bit model on MLX's CPU back end against mlx-lm: prefill, decoding of one sequence and of eight, peak memory.

Each program runs in a process of its own, so that its peak is its own; rounds alternate, the median round counts.
Prefill is the time to the logits of the last token; decoding is one forward pass a token, greedy.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

from benchmarks.random_model import make_model
from benchmarks.tables import parser, publish
from llama3_mlx.checkpoint.folder import ModelFolder
from llama3_mlx.convert import convert
from llama3_mlx.model.memory_estimate import kept_unpacked_bytes
from tests.support.smollm2 import save_smollm2


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--size", choices=("smollm2", "1b"), default="smollm2", help="1b: of random weights")
    arguments.add_argument("--length", type=int, default=512, help="tokens of the prompt")
    arguments.add_argument("--tokens", type=int, default=16)
    arguments.add_argument("--behind", type=int, default=64, help="tokens that decoding follows")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--run", nargs=2, metavar=("PROGRAM", "FOLDER"), help="one round of one program, as JSON")
    args = arguments.parse_args()
    if args.run:
        print(json.dumps(measured(args.run[0], Path(args.run[1]), args.length, args.tokens, args.behind)))
        return
    with tempfile.TemporaryDirectory() as name:
        whole, folder = Path(name) / "whole", Path(name) / "quantized"
        if args.size == "1b":
            make_model(whole, "1b")
        else:
            save_smollm2(whole)
        convert(whole, folder, bits=4, quality="rtn")
        weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        kept = kept_unpacked_bytes(ModelFolder(folder).config)
        found: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
        for _ in range(args.rounds):
            for program, rounds in found.items():
                rounds.append(one_round(program, folder, args.length, args.tokens, args.behind))
    rows = []
    for key in found["ours"][0]:
        a, b = (statistics.median(each[key] for each in found[program]) for program in ("ours", "theirs"))
        rows.append([key, f"{a:.1f}", f"{b:.1f}", f"{a / b:.2f}"])
    label = "A random 1B" if args.size == "1b" else "SmolLM2-135M"
    note = (
        f"{label} in 4 bits, groups of 64, computing in float32: {weights / 1e6:,.0f} MB of weights. Decoding is "
        f"behind {args.behind} tokens, {args.tokens} steps. Median of {args.rounds} alternating rounds, each in a "
        "process of its own. OpenBLAS computes for both. More tokens per second and less memory are better."
    )
    if kept:
        note += (
            f" A model this small beside the memory of its machine keeps its matrices unpacked, too: {kept / 1e6:,.0f} "
            "MB of llama3-mlx's peak."
        )
    heading = f"4 bits on the CPU, {'1B' if args.size == '1b' else 'SmolLM2'}"
    publish(heading, ["", "llama3-mlx", "mlx-lm", "ratio"], rows, note, args.write)


def one_round(program: str, folder: Path, length: int, tokens: int, behind: int) -> dict[str, float]:
    """Run one program in a process of its own."""
    numbers = ("--length", str(length), "--tokens", str(tokens), "--behind", str(behind))
    command = [sys.executable, "-m", "benchmarks.cpu", "--run", program, str(folder), *numbers]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def measured(program: str, folder: Path, length: int, tokens: int, behind: int) -> dict[str, float]:
    """Return tokens per second and peak MB of one program."""
    model, make_cache, logits = ours(folder) if program == "ours" else theirs(folder)
    result = {}
    prompt = mx.random.randint(0, 40000, (1, length), key=mx.random.key(0))
    mx.eval(logits(model, prompt[:, :8], make_cache()))
    mx.reset_peak_memory()
    began = time.perf_counter()
    mx.eval(logits(model, prompt, make_cache()))
    result[f"prefill of {length}, tokens/s"] = length / (time.perf_counter() - began)
    for rows in (1, 8):
        cache = make_cache()
        y = mx.argmax(logits(model, mx.repeat(prompt[:, :behind], rows, axis=0), cache), axis=-1)
        mx.eval(y)
        began = time.perf_counter()
        for _ in range(tokens):
            y = mx.argmax(logits(model, y[:, None], cache), axis=-1)
            mx.eval(y)
        name = "one sequence" if rows == 1 else f"{rows} sequences"
        result[f"decoding {name}, tokens/s"] = rows * tokens / (time.perf_counter() - began)
    result["peak MB"] = mx.get_peak_memory() / 1e6
    return result


def ours(folder: Path) -> tuple[Any, Callable[[], Any], Callable[..., mx.array]]:
    """Return this package's model, what makes its cache, and what gives the last logits (B, V)."""
    from llama3_mlx.checkpoint.loading import load_model

    model = load_model(folder, dtype="float32")
    return model, model.make_cache, lambda model, tokens, cache: model.head(model.hidden(tokens, cache)[:, -1])


def theirs(folder: Path) -> tuple[Any, Callable[[], Any], Callable[..., mx.array]]:
    """Return mlx-lm's; like its own generation it keeps the head to the prompt's last token."""
    import mlx_lm.utils
    from mlx_lm.models.cache import make_prompt_cache

    model, _ = mlx_lm.utils.load_model(folder)
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())

    def last(model: Any, tokens: mx.array, cache: Any) -> mx.array:
        if tokens.shape[1] > 1:
            mx.eval(model.model(tokens[:, :-1], cache=cache), [layer.state for layer in cache])
        return model(tokens[:, -1:], cache=cache)[:, -1]

    return model, lambda: make_prompt_cache(model), last


if __name__ == "__main__":
    main()
