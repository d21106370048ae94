r"""Data of your own, as a function that training calls: it returns dialogs, here made of lines `question | answer`.

    FAQ_FILE=faq.txt python -m examples.recipes.finetune own \
        examples/recipes/own_data.py:load OUT \
        --question "When do you open?" --learning-rate 1e-3

The small model learns a dozen answers by heart, in OUT/last: what was held out it can't know, so that OUT itself has an
early step. An 8B learns their tone from fifty, without another learning rate.
"""

import os
from pathlib import Path


def load(split: str) -> list[dict[str, list[dict[str, str]]]]:
    """Return the examples of a split, `train` or `valid`; every tenth line is held out."""
    lines = Path(os.environ.get("FAQ_FILE", "faq.txt")).read_text(encoding="utf-8").splitlines()
    pairs = [tuple(part.strip() for part in line.split("|", 1)) for line in lines if "|" in line]
    held_out = split == "valid"
    return [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for at, (question, answer) in enumerate(pairs)
        if (at % 10 == 9) == held_out
    ]
