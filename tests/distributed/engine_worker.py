"""Runs an engine over some processes beside one in this process alone; prints what differs as JSON.

Run as `python -m tests.distributed.engine_worker SIZE SPLIT MODEL REQUESTS`.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

from llama3_mlx import Llama
from llama3_mlx.engine.reply import Stream
from llama3_mlx.evaluation.perplexity import measure_perplexity
from llama3_mlx.evaluation.scoring import score_continuations
from llama3_mlx.evaluation.sharing import Continuation
from llama3_mlx.evaluation.windows import PerplexityOptions

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 99}}, "required": ["n"]}


def requests(count: int) -> list[dict[str, Any]]:
    """Return mixed requests: lengths, seeds, penalties, structure, shared prefixes, cancels."""
    rng = random.Random(0)
    stem = "The quick brown fox jumps over the lazy dog. " * 8
    made = []
    for number in range(count):
        settings: dict[str, Any] = {"max_tokens": rng.randint(1, 24), "seed": number}
        settings["temperature"] = rng.choice([0.0, 0.8, 1.0])
        if number % 5 == 1:
            settings["repetition_penalty"] = 1.2
        if number % 7 == 2:
            settings["schema"] = SCHEMA
        if number % 6 == 3:
            settings["speculate"] = False
        start = rng.choice([0, 0, 40, 200])
        made.append(
            {
                "prompt": stem[:start] + "".join(rng.choices("abc def", k=rng.randint(1, 60))),
                "cancel": rng.random() < 0.15,
                "settings": settings,
            }
        )
    return made


def answers(llama: Llama, asked: list[dict[str, Any]]) -> list[list[int] | str | None]:
    """Run all at once; None for what was cancelled, the error's class for what failed."""
    streams: list[tuple[dict[str, Any], Stream[Any]]] = []
    for request in asked:
        streams.append((request, llama.stream(request["prompt"], **request["settings"])))
        if request["cancel"]:
            streams[-1][1].close()
    found: list[list[int] | str | None] = []
    for request, stream in streams:
        if request["cancel"]:
            found.append(None)
            continue
        try:
            found.append(list(stream.completion.token_ids))
        except Exception as error:
            found.append(type(error).__name__)
    return found


def measured(llama: Llama) -> list[float]:
    """Return the perplexity of a text, and log-likelihoods of continuations that share contexts and beginnings."""
    text = "The quick brown fox jumps over the lazy dog. " * 6
    contexts = [tuple(llama.tokenizer.encode(text[:at])) for at in (5, 90, 90, 100)]
    asked = [Continuation(ids, ids[at : at + 3]) for at, ids in enumerate(contexts)]
    scores = score_continuations(llama, asked)
    perplexity = measure_perplexity(llama, text, PerplexityOptions(length=64)).perplexity
    return [perplexity.value, *(score.logprob for score in scores), *(float(score.is_greedy) for score in scores)]


def main() -> None:
    size, split, folder, count = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    asked = requests(count)
    greedy: dict[str, Any] = {"max_tokens": 8, "temperature": 0}
    with Llama.load(folder, dtype="float32") as one:
        expected = answers(one, asked)
        text = one.generate("The capital of France is", **greedy).text
        expected_figures = measured(one) if asked else []
    result: dict[str, Any] = {}
    with Llama.load(folder, dtype="float32", nodes=size, split=split) as llama:
        result["texts"] = [llama.generate("The capital of France is", **greedy).text, text]
        if not asked:
            json.dump(result, sys.stdout)
            return
        result["texts"].append(llama.generate("The capital of France is", **greedy).text)
        found = answers(llama, asked)
        cached = llama.generate("The capital of France is" + "x" * 300, max_tokens=1, temperature=0)
        reused = llama.generate("The capital of France is" + "x" * 300 + "y", max_tokens=1, temperature=0)
        result["measured"] = list(zip(measured(llama), expected_figures, strict=True))
    differing = [at for at, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b]
    result["differing"] = [(asked[at], found[at], expected[at]) for at in differing]
    result["cached"] = [cached.cached_tokens, reused.cached_tokens]
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
