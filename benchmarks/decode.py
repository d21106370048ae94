"""Decoding against mlx-lm in one process: operations of one step, tokens per second, on SmolLM2 in float32 and 4 bits.

Operations are the primitives of the step's graph, which MLX's CPU back end breaks fused ones (rope, norm, attention)
into; on Metal each of those is one. Rounds alternate between the two programs; the median round counts.
"""

import collections
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx

from benchmarks.tables import parser, publish
from llama3_mlx import Llama
from llama3_mlx.convert import convert
from llama3_mlx.kv_cache import make_cache
from tests.support.smollm2 import save_smollm2

PROMPT = list(range(100, 164))


def count_operations(output: mx.array) -> collections.Counter[str]:
    """Count the primitives of the graph that computes `output`."""
    with tempfile.NamedTemporaryFile(suffix=".dot") as file:
        mx.export_to_dot(file.name, output)
        text = Path(file.name).read_text()
    return collections.Counter(re.findall(r'label ?="([^"]*)"', text))


def our_step(model: Any) -> mx.array:
    """The graph of one greedy step of ours."""
    cache = make_cache(model.config.num_hidden_layers)
    mx.eval(model.hidden(mx.array([PROMPT]), cache), cache.arrays)
    return mx.argmax(model.head(model.hidden(mx.array([[5]]), cache)[:, -1]), axis=-1)


def their_step(model: Any) -> mx.array:
    """The graph of one greedy step of mlx-lm's generate_step."""
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    mx.eval(model(mx.array([PROMPT]), cache=cache), [layer.state for layer in cache])
    logits = model(mx.array([[5]]), cache=cache)[:, -1, :]
    return mx.argmax(logits - mx.logsumexp(logits, keepdims=True), axis=-1)


def our_tokens(llama: Llama, count: int) -> Iterator[int]:
    """Greedy tokens as they come out of the engine; none of the prompt is kept from the run before."""
    llama.release_memory()
    for piece in llama.stream(PROMPT, max_tokens=count, temperature=0, ignore_eos=True, speculate=False):
        yield from piece.token_ids


def rate(tokens: Any, count: int) -> float:
    """Tokens a second after the first."""
    next(tokens)
    began = time.perf_counter()
    for _ in range(count - 1):
        next(tokens)
    return (count - 1) / (time.perf_counter() - began)


def compare(folder: Path, count: int, rounds: int) -> tuple[list[float], list[float], int, int]:
    """Return both programs' rates and operations per step."""
    import mlx_lm.utils
    from mlx_lm.generate import generate_step

    llama = Llama.load(folder, dtype="float32")
    theirs, _ = mlx_lm.utils.load_model(folder)
    theirs.set_dtype(mx.float32)
    mx.eval(theirs.parameters())
    runs: dict[str, Callable[[], Any]] = {
        "ours": lambda: our_tokens(llama, count),
        "theirs": lambda: generate_step(mx.array(PROMPT), theirs, max_tokens=count),
    }
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(rounds):
        for name, start in runs.items():
            rates[name].append(rate(start(), count))
    operations = [sum(count_operations(step).values()) for step in (our_step(llama.model), their_step(theirs))]
    return rates["ours"], rates["theirs"], operations[0], operations[1]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--tokens", type=int, default=64)
    arguments.add_argument("--rounds", type=int, default=7)
    args = arguments.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        whole = save_smollm2(Path(name))
        quantized = Path(name) / "quantized"
        convert(whole, quantized, bits=4)
        for label, folder in (("float32", whole), ("4 bits, groups of 64", quantized)):
            ours, theirs, our_operations, their_operations = compare(folder, args.tokens, args.rounds)
            a, b = statistics.median(ours), statistics.median(theirs)
            rows.append([f"tokens/s, {label}", f"{a:.1f}", f"{b:.1f}", f"{a / b:.2f}"])
            ratio = f"{our_operations / their_operations:.2f}"
            rows.append([f"operations per step, {label}", str(our_operations), str(their_operations), ratio])
    note = (
        f"SmolLM2-135M, greedy, {args.tokens} tokens after a prompt of {len(PROMPT)}, median of {args.rounds} "
        "alternating rounds. OpenBLAS computes for both. More tokens per second and fewer operations are better."
    )
    publish("Decoding", ["", "llama3-mlx", "mlx-lm", "ratio"], rows, note, args.write)


if __name__ == "__main__":
    main()
