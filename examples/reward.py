"""Raising a reward by GRPO: answers that name a color and are short; prints the mean reward on held-out questions.

    python -m examples.reward MODEL OUT

writes `train.jsonl`, the adapter and its report to OUT. In the terminal the same training is
`llama3-mlx grpo -m MODEL -d OUT/train.jsonl -o OUT/adapter --rewards examples/reward.py:names_a_color \
--learning-rate 1e-3 --answer-tokens 12 --group-size 12 --steps 8`.
"""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama3_mlx import Llama
from llama3_mlx.finetune import GrpoSettings, grpo

COLORS = {"red", "blue", "green", "yellow", "black", "white", "brown", "orange", "pink", "gray", "purple"}
THINGS = [
    "a fox", "the sea", "a lemon", "coal", "snow", "a carrot", "grass", "a flamingo", "chocolate", "a violet",
    "the sky", "a tomato", "an elephant", "a swan", "mud", "a raven",
]  # fmt: skip


def names_a_color(completions: Sequence[str], **_: Any) -> list[float]:
    """Return 1 for an answer with a color in at most four words, a half for one in more words, 0 for none."""
    return [_score(re.findall(r"[a-z]+", text.lower())) for text in completions]


def _score(words: list[str]) -> float:
    if not COLORS & set(words):
        return 0.0
    return 1.0 if len(words) <= 4 else 0.5


def question(thing: str) -> list[dict[str, str]]:
    """Return the dialog that asks for a thing's color."""
    return [{"role": "user", "content": f"What is the color of {thing}?"}]


def mean_reward(model: Path, adapter: Path | None, things: Sequence[str], draws: int = 4) -> float:
    """Return the mean reward of `draws` answers to the question about each thing, drawn at temperature 1."""
    settings: Any = {"n": draws, "max_tokens": 12, "temperature": 1.0, "seed": 5}
    with Llama.load(model, adapter=adapter) as llama:
        done = [each for thing in things for each in llama.samples(question(thing), **settings)]
    return sum(names_a_color([each.text for each in done])) / len(done)


def run(model: Path, out: Path, *, train: int = 12, **settings: Any) -> tuple[float, float]:
    """Train on the questions about the first `train` things; return the mean reward on the others before and after."""
    out.mkdir(parents=True, exist_ok=True)
    data = out / "train.jsonl"
    data.write_text("".join(json.dumps({"prompt": question(thing)}) + "\n" for thing in THINGS[:train]))
    before = mean_reward(model, None, THINGS[train:])
    chosen = GrpoSettings(
        rewards=(f"{__file__}:names_a_color",), learning_rate=1e-3, answer_tokens=12, group_size=12, steps=8, samples=0
    ).with_values(**settings)
    grpo(model, data, out / "adapter", chosen)
    return before, mean_reward(model, out / "adapter", THINGS[train:])


def main() -> None:
    before, after = run(*map(Path, sys.argv[1:3]))
    print(f"mean reward on held-out questions: {before:.2f} before, {after:.2f} after")


if __name__ == "__main__":
    main()
