"""Teaches a small model to turn notes into one fixed JSON form; prints how many held-out answers are exact.

    python -m examples.extraction MODEL OUT

writes `train.jsonl`, the adapter and its report to OUT. In the terminal the same training is
`llama3-mlx train -m MODEL -d OUT/train.jsonl -o OUT/adapter --learning-rate 1e-3 --batch-size 2`.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.notes import HELD_OUT_WORDINGS, WORDINGS, dialogs
from llama3_mlx import Llama
from llama3_mlx.finetune import TrainSettings, train


def answers(llama: Llama, examples: Sequence[dict[str, Any]]) -> list[str]:
    """Return what the model answers to the examples' notes, all in one batch."""
    prompts = [example["messages"][:1] for example in examples]
    return [done.text for done in llama.generate_batch(prompts, max_tokens=80, temperature=0)]


def exact_share(texts: Sequence[str], examples: Sequence[dict[str, Any]]) -> float:
    """Return the share of texts that are the example's JSON object, however it is spaced."""
    wanted = [json.loads(example["messages"][1]["content"]) for example in examples]
    return sum(parsed(text) == each for text, each in zip(texts, wanted, strict=True)) / len(wanted)


def parsed(text: str) -> Any:
    """Return the JSON value of a text, None where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def run(model: Path, out: Path, *, count: int = 300, held_out: int = 60, **settings: Any) -> tuple[float, float]:
    """Train on `count` notes; return the exact share of `held_out` others before and after."""
    out.mkdir(parents=True, exist_ok=True)
    data = out / "train.jsonl"
    data.write_text("".join(json.dumps(dialog) + "\n" for dialog in dialogs(count, 0, WORDINGS)))
    tested = dialogs(held_out, 1, WORDINGS + HELD_OUT_WORDINGS)
    with Llama.load(model, max_sequences=64) as llama:
        before = exact_share(answers(llama, tested), tested)
    chosen = TrainSettings(learning_rate=1e-3, row_length=512, batch_size=2, epochs=1, samples=0)
    train(model, data, out / "adapter", chosen.with_values(**settings))
    with Llama.load(model, adapter=out / "adapter", max_sequences=64) as llama:
        texts = answers(llama, tested)
    (out / "answers.json").write_text(json.dumps(texts, indent=1))
    return before, exact_share(texts, tested)


def main() -> None:
    model, out = map(Path, sys.argv[1:3])
    began = time.perf_counter()
    before, after = run(model, out)
    print(f"exact answers to held-out notes: {before:.0%} before, {after:.0%} after")
    print(f"{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
