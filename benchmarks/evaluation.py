"""Multiple-choice questions against mlx-lm's model of lm-evaluation-harness in one process, on SmolLM2.

Both get the same requests of the harness in alternating rounds; the median round counts. Rates are requests a second;
memory is MLX's peak beyond what both models' weights take, in the round that needed most.
"""

import contextlib
import io
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from benchmarks.tables import parser, publish
from llama3_mlx.convert.quantization.corpus import builtin_texts
from llama3_mlx.evaluation.language_model import HarnessModel
from tests.support.smollm2 import save_smollm2

LETTERS = ("A", "B", "C", "D")


def questions(n: int, shots: int, *, letters: bool, seed: int) -> Iterator[tuple[str, str]]:
    """Yield contexts with choices: `shots` examples that all questions share, a question, four choices."""
    rng = random.Random(seed)
    words = " ".join(builtin_texts("evaluation_text")).split()

    def phrase(low: int, high: int) -> str:
        start = rng.randrange(len(words) - high)
        return " ".join(words[start : start + rng.randint(low, high)])

    def asked(choices: list[str]) -> str:
        listed = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
        return f"Question: {phrase(20, 45)}?{listed if letters else ''}\nAnswer:"

    def example() -> str:
        choices = [phrase(2, 8) for _ in LETTERS]
        return f"{asked(choices)} {'B' if letters else choices[1]}\n\n"

    header = "".join(example() for _ in range(shots))
    for _ in range(n):
        choices = [phrase(2, 8) for _ in LETTERS]
        context = header + asked(choices)
        for choice in LETTERS if letters else choices:
            yield context, f" {choice}"


def instances(pairs: Iterator[tuple[str, str]]) -> list[Any]:
    """Return requests as the harness makes them."""
    from lm_eval.api.instance import Instance

    return [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]


def compare(folder: Path, case: dict[str, Any], n: int, rounds: int) -> list[float]:
    """Return both rates and both peaks in MB, and how far the log-likelihoods are apart at most."""
    from mlx_lm.evaluate import MLXLM

    ours = HarnessModel(str(folder), dtype="float32")
    theirs = MLXLM(str(folder), use_chat_template=False)
    theirs._model.set_dtype(mx.float32)
    mx.eval(theirs._model.parameters())
    programs: dict[str, Any] = {"ours": ours, "theirs": theirs}
    rates: dict[str, list[float]] = {name: [] for name in programs}
    peaks, apart = dict.fromkeys(programs, 0.0), 0.0
    for number in range(rounds):
        requests = instances(questions(n, **case, seed=number))
        found = {}
        for name in list(programs) if number % 2 == 0 else list(programs)[::-1]:
            mx.clear_cache()
            before = mx.get_active_memory()
            mx.reset_peak_memory()
            began = time.perf_counter()
            with contextlib.redirect_stderr(io.StringIO()):
                found[name] = programs[name].loglikelihood(requests)
            rates[name].append(len(requests) / (time.perf_counter() - began))
            peaks[name] = max(peaks[name], (mx.get_peak_memory() - before) / 1e6)
        differences = [abs(a[0] - b[0]) for a, b in zip(found["ours"], found["theirs"], strict=True)]
        apart = max(apart, float(np.max(differences)))
    ours.llama.close()
    return [*(statistics.median(rates[name]) for name in programs), *peaks.values(), apart]


CASES = {
    "5 shots, letters": {"shots": 5, "letters": True},
    "5 shots, answers as texts": {"shots": 5, "letters": False},
    "no shots, letters": {"shots": 0, "letters": True},
    "no shots, answers as texts": {"shots": 0, "letters": False},
}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--questions", type=int, default=24)
    arguments.add_argument("--rounds", type=int, default=3)
    args = arguments.parse_args()
    rows, apart = [], 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = save_smollm2(Path(name))
        for label, case in CASES.items():
            a, b, mine, other, difference = compare(folder, case, args.questions, args.rounds)
            rows.append([f"requests/s, {label}", f"{a:.1f}", f"{b:.1f}", f"{a / b:.2f}"])
            rows.append([f"peak MB, {label}", f"{mine:.0f}", f"{other:.0f}", f"{mine / other:.2f}"])
            apart = max(apart, difference)
    note = (
        f"SmolLM2-135M in float32, {args.questions} questions with four choices each, median of {args.rounds} "
        "alternating rounds in one process; a request is one choice. Peaks are MLX's, beyond the weights. OpenBLAS "
        f"computes for both. Log-likelihoods are at most {apart:.0e} apart. mlx-lm runs each question's context by "
        "itself, then each choice. Letters without examples are one pass a question in both."
    )
    publish("Multiple choice", ["", "llama3-mlx", "mlx-lm", "ratio"], rows, note, args.write)


if __name__ == "__main__":
    main()
