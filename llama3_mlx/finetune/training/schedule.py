"""The learning rate of each step."""

import math


def warmup_steps(warmup: float, total: int) -> int:
    """Return the steps of warm-up: a share of the total, or a number from 1 on; fewer than the total."""
    return min(round(warmup * total) if warmup < 1 else round(warmup), max(0, total - 1))


def learning_rate(step: int, total: int, peak: float, kind: str, warmup: int) -> float:
    """Return the rate of step `step` of `total`, counted from 0: up in a line, then along `kind` down to zero.

    The first step's rate is not zero and the last one's neither, so that no step is in vain.
    """
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if kind == "constant":
        return peak
    share = (step - warmup) / max(1, total - warmup)
    return peak * (1 - share if kind == "linear" else (1 + math.cos(math.pi * share)) / 2)
