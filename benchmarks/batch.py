"""Several requests at once against mlx-lm's batch_generate in one process: tokens per second, on SmolLM2.

Prompts have different lengths and every answer has the same number of tokens. Rounds alternate between the two
programs; the median round counts. The time is that of the whole call, prompts included.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

from benchmarks.tables import parser, publish
from llama3_mlx import Llama
from llama3_mlx.bench.options import random_prompt
from llama3_mlx.convert import convert
from tests.support.smollm2 import save_smollm2


def prompts_of(requests: int, longest: int, seed: int, vocabulary: int) -> list[list[int]]:
    """Random prompts of lengths from an eighth of `longest` up."""
    lengths = [longest // 8 + (longest - longest // 8) * at // max(1, requests - 1) for at in range(requests)]
    return [random_prompt((seed, at), length, vocabulary) for at, length in enumerate(lengths)]


def compare(folder: Path, requests: int, tokens: int, longest: int, rounds: int) -> tuple[float, float]:
    """Return both programs' median rates."""
    import mlx_lm
    import mlx_lm.utils

    llama = Llama.load(folder, dtype="float32")
    theirs, _ = mlx_lm.utils.load_model(folder)
    theirs.set_dtype(mx.float32)
    mx.eval(theirs.parameters())
    tokenizer = mlx_lm.utils.load_tokenizer(folder)
    tokenizer.eos_token_ids = set()

    def ours(prompts: list[list[int]]) -> Any:
        llama.release_memory()
        return llama.generate_batch(prompts, max_tokens=tokens, temperature=0.0, ignore_eos=True, speculate=False)

    programs: dict[str, Callable[[list[list[int]]], Any]] = {
        "ours": ours,
        "theirs": lambda prompts: mlx_lm.batch_generate(theirs, tokenizer, prompts, max_tokens=tokens),
    }
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    for number in range(rounds):
        prompts = prompts_of(requests, longest, number, llama.config.vocab_size)
        order = list(programs) if number % 2 == 0 else list(programs)[::-1]
        for name in order:
            began = time.perf_counter()
            programs[name](prompts)
            rates[name].append(requests * tokens / (time.perf_counter() - began))
    llama.close()
    return statistics.median(rates["ours"]), statistics.median(rates["theirs"])


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--requests", type=int, default=8)
    arguments.add_argument("--tokens", type=int, default=64)
    arguments.add_argument("--longest", type=int, default=128, help="length of the longest prompt")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--quantized", action="store_true", help="also in 4 bits")
    args = arguments.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folders = {"float32": save_smollm2(Path(name))}
        if args.quantized:
            folders["4 bits, groups of 64"] = Path(name) / "quantized"
            convert(folders["float32"], folders["4 bits, groups of 64"], bits=4)
        for label, folder in folders.items():
            a, b = compare(folder, args.requests, args.tokens, args.longest, args.rounds)
            rows.append([f"tokens/s, {label}", f"{a:.1f}", f"{b:.1f}", f"{a / b:.2f}"])
    note = (
        f"SmolLM2-135M, {args.requests} requests with prompts of {args.longest // 8} to {args.longest} tokens and "
        f"{args.tokens} tokens generated for each, median of {args.rounds} alternating rounds. OpenBLAS computes "
        "for both. More tokens per second are better."
    )
    publish("Several requests at once", ["", "llama3-mlx", "mlx-lm", "ratio"], rows, note, args.write)


if __name__ == "__main__":
    main()
