"""Teaching a preference by DPO: plain short answers over shouted ones; prints margin and accuracy on held-out pairs.

    python -m examples.preference MODEL OUT

writes `train.jsonl` and `valid.jsonl`, the adapter and its report to OUT. In the terminal the same training is
`llama3-mlx dpo -m MODEL -d OUT -o OUT/adapter --learning-rate 2e-4 --beta 0.2`.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

from llama3_mlx.finetune import Callback, DpoSettings, ValidationReport, dpo

ASKED = [
    "When does the {place} open?", "Is the {place} open on {day}?", "Who has the key of the {place}?",
    "How do I get to the {place}?", "May I park at the {place} on {day}?", "Is there a lift in the {place}?",
]  # fmt: skip
PLAIN = [
    "At nine on {day}.",
    "Yes, all of {day}.",
    "Ask at the desk on {day}.",
    "No, not on {day}.",
    "By bus, on {day}.",
]
SHOUTED = [
    "OH WOW, WHAT A QUESTION! {day} IS THE BEST DAY EVER!!!", "LISTEN!!! EVERYBODY KNOWS ALL ABOUT {day}!!!",
    "AMAZING!!! YOU WILL NOT BELIEVE WHAT HAPPENS ON {day}!!!", "HURRY, HURRY, {day} IS NEARLY OVER!!!",
]  # fmt: skip
PLACES = ["library", "museum", "swimming pool", "town hall", "market", "station", "theatre", "school", "archive", "zoo"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def pairs(count: int, seed: int, places: list[str]) -> list[dict[str, str]]:
    """Return questions about places with a preferred and a rejected answer."""
    rng = random.Random(seed)
    made: list[dict[str, str]] = []
    for _ in range(count):
        day = rng.choice(DAYS)
        made.append(
            {
                "prompt": rng.choice(ASKED).format(place=rng.choice(places), day=day),
                "chosen": rng.choice(PLAIN).format(day=day),
                "rejected": rng.choice(SHOUTED).format(day=day.upper()),
            }
        )
    return made


class Validations(Callback):
    """Keeps what each validation found."""

    def __init__(self) -> None:
        self.found: list[ValidationReport] = []

    def on_validation(self, report: ValidationReport) -> None:
        """Keep the report."""
        self.found.append(report)


def run(model: Path, out: Path, *, count: int = 48, held_out: int = 12, **settings: Any) -> list[ValidationReport]:
    """Train on `count` pairs about some places; return the validations on pairs about others, the last one final."""
    out.mkdir(parents=True, exist_ok=True)
    for name, made in (("train", pairs(count, 0, PLACES[:7])), ("valid", pairs(held_out, 1, PLACES[7:]))):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in made))
    seen = Validations()
    chosen = DpoSettings(learning_rate=2e-4, beta=0.2, epochs=1, samples=0).with_values(**settings)
    dpo(model, out, out / "adapter", chosen, callbacks=[seen])
    return seen.found


def main() -> None:
    last = run(*map(Path, sys.argv[1:3]))[-1]
    # Before training both answers have gained nothing: the margin is 0, and no pair is told apart.
    print(f"margin on held-out pairs: 0 before, {last.more['margin']:.2f} after; accuracy {last.more['accuracy']:.0%}")


if __name__ == "__main__":
    main()
